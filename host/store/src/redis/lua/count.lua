-- Writes how many connections of a principal a node has.
-- KEYS connections: a field a node
-- ARGV node, its connections, ms the counts are kept, deadline
-- Gives 1; -2 when what it says may be old
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
