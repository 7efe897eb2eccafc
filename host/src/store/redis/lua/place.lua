-- Takes a place for a connection of a principal.
-- KEYS connections: a field a node
-- ARGV node, its connections with this one, most on all nodes, ms the counts are kept, deadline
-- Gives -1, or how many are taken when there is none left; -2 when nobody waits for it any more
if late(ARGV[5], now()) then
  return -2
end
local others, own = 0, 0
for n, value in ipairs(redis.call('HGETALL', KEYS[1])) do
  if n % 2 == 1 then
    own = value == ARGV[1]
  elseif not own then
    others = others + value
  end
end
if others + ARGV[2] > tonumber(ARGV[3]) then
  return others + ARGV[2] - 1
end
local count = math.max(ARGV[2], tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0'))
redis.call('HSET', KEYS[1], ARGV[1], int(count))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return -1
