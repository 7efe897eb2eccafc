-- Makes a session, or takes one back that is still this connection's.
-- KEYS session
-- ARGV connection, node, ms the session is kept, then fields and values
-- Gives 1; 0 when another connection has it; -1 while it is being ended
local is = redis.call('HMGET', KEYS[1], '/connection', '/until')
if is[1] and is[1] ~= ARGV[1] then
  return 0
end
if is[2] and tonumber(is[2]) <= now() then
  return -1
end
redis.call('HSET', KEYS[1], '/connection', ARGV[1], '/node', ARGV[2])
redis.call('HDEL', KEYS[1], '/until')
for n = 4, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[n], ARGV[n + 1])
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
