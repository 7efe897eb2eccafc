-- Writes how many connections of a principal a node has.
-- KEYS connections: a field a node
-- ARGV node, its connections, ms the counts are kept
if ARGV[2] == '0' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 1
