-- Changes some rooms of a session that this connection holds.
-- KEYS session
-- ARGV connection, generation, number of the write, ms to keep the session, then rooms and memberships. The
-- membership is 'left' for a room that the session has left, and '' for one whose member is removed, too.
-- Returns ok, taken, behind or gone, and the time.
local record = redis.call('HMGET', KEYS[1], 'gen', 'n', 'conn', 'until')
local time = int(now())
if not record[1] then
  return { 'gone', time }
end
if tonumber(record[1]) > tonumber(ARGV[2]) then
  return { 'taken', time }
end
if record[1] ~= ARGV[2] or record[3] ~= ARGV[1] or record[4] or tonumber(record[2]) >= tonumber(ARGV[3]) then
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
