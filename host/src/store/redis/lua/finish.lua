-- Ends a session that this connection has.
-- KEYS session
-- ARGV connection
-- Gives 1; 0 when it is another's or gone
if redis.call('HGET', KEYS[1], '/connection') ~= ARGV[1] then
  return 0
end
return redis.call('DEL', KEYS[1])
