-- Tells a node that another node has taken over the session of one of its connections.
-- KEYS takeovers
-- ARGV connection, ms to keep this
redis.call('RPUSH', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
