-- Writes how many connections of a principal a node has.
-- KEYS connections: a hash with a field for each node
-- ARGV node, its connections, ms to keep the counts, deadline
-- Returns 1, or -2 after the deadline: the count may be outdated.
if late(ARGV[4], now()) then
  return -2
end
if ARGV[2] == '0' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 1
