-- Writes a session as a whole, as its connection holds it.
-- KEYS session
-- ARGV connection, node, generation, number of the write, deadline, whether to create it if it does not
-- exist, ms to keep the session, then rooms and memberships
-- Returns ok, taken, behind, gone or late, and the time; with ok also the rooms that are not among these,
-- which are left now.
local record = redis.call('HMGET', KEYS[1], 'gen', 'n')
local time = now()
if late(ARGV[5], time) then
  return { 'late', int(time) }
end
if not record[1] and ARGV[6] ~= '1' then
  return { 'gone', int(time) }
end
if record[1] and tonumber(record[1]) > tonumber(ARGV[3]) then
  return { 'taken', int(time) }
end
if record[1] == ARGV[3] and tonumber(record[2]) >= tonumber(ARGV[4]) then
  return { 'behind', int(time) }
end
redis.call('HSET', KEYS[1], 'conn', ARGV[1], 'node', ARGV[2], 'gen', ARGV[3], 'n', ARGV[4])
redis.call('HDEL', KEYS[1], 'until')
local answer = replace(KEYS[1], 8, { 'ok', int(time) })
redis.call('PEXPIRE', KEYS[1], ARGV[7])
return answer
