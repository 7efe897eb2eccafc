-- Changes the rooms of a session that this connection holds.
-- KEYS session
-- ARGV connection, generation, number of the write, ms the session is kept, then rooms and places; the place is 'left' for
-- a room that is left, and '' for one that was left and whose member is gone
-- Gives ok, taken, behind or gone, and the time
local is = redis.call('HMGET', KEYS[1], 'gen', 'n', 'conn', 'until')
local time = int(now())
if not is[1] then
  return { 'gone', time }
end
if tonumber(is[1]) > tonumber(ARGV[2]) then
  return { 'taken', time }
end
if is[1] ~= ARGV[2] or is[3] ~= ARGV[1] or is[4] or tonumber(is[2]) >= tonumber(ARGV[3]) then
  return { 'behind', time }
end
redis.call('HSET', KEYS[1], 'n', ARGV[3])
for n = 5, #ARGV, 2 do
  local field = '/' .. ARGV[n]
  if ARGV[n + 1] ~= '' then
    redis.call('HSET', KEYS[1], field, ARGV[n + 1])
  elseif redis.call('HGET', KEYS[1], field) == 'left' then
    redis.call('HDEL', KEYS[1], field)
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return { 'ok', time }
