-- Tells a node that one of its connections is not needed any more.
-- KEYS takeovers
-- ARGV connection, ms this is kept
redis.call('RPUSH', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
