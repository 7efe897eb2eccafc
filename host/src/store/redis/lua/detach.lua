-- Starts a session's time to live.
-- KEYS session
-- ARGV '/connection' or '/node', which must be this one, ms until it ends, ms it is kept
-- Gives 1; 0 when somebody else has it
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return 0
end
redis.call('HDEL', KEYS[1], '/connection', '/node')
redis.call('HSET', KEYS[1], '/until', int(now() + ARGV[3]))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
