-- Gives a node what is due on a list, for a while: what it does not take from the list by then is given out again.
-- KEYS list: a sorted set of entries by time
-- ARGV cluster time, until when what is given is this node's, entries at most, deadline by Redis' clock: beyond it the answer is not
-- heard, and nothing is given out
-- Gives entries
if now() > tonumber(ARGV[4]) then
  return {}
end
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])
for _, entry in ipairs(due) do
  redis.call('ZADD', KEYS[1], ARGV[2], entry)
end
return due
