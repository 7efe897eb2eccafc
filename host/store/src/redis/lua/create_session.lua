-- Creates a session that a connection holds.
-- KEYS session
-- ARGV connection, node, deadline, ms to keep the session, then rooms and memberships
-- Returns ok or late, and the time, which is the session's generation.
local time = now()
if late(ARGV[3], time) then
  return { 'late', int(time) }
end
redis.call('HSET', KEYS[1], 'gen', int(time), 'n', '0', 'conn', ARGV[1], 'node', ARGV[2])
for n = 5, #ARGV, 2 do
  redis.call('HSET', KEYS[1], '/' .. ARGV[n], ARGV[n + 1])
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return { 'ok', int(time) }
