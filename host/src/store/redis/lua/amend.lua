-- Changes the rooms of a session that this connection has.
-- KEYS session
-- ARGV connection, ms the session is kept, how many are set, then fields and values, then fields that go
-- Gives 1; 0 when another connection has it; -1 when nobody has it
local is = redis.call('HGET', KEYS[1], '/connection')
if not is then
  return -1
end
if is ~= ARGV[1] then
  return 0
end
local sets = 3 + 2 * ARGV[3]
for n = 4, sets, 2 do
  redis.call('HSET', KEYS[1], ARGV[n], ARGV[n + 1])
end
for n = sets + 1, #ARGV do
  redis.call('HDEL', KEYS[1], ARGV[n])
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
