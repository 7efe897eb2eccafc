-- Claims the entries of a list that are due. One that is not removed from the list before the claim ends is
-- due again.
-- KEYS list: a sorted set of entries by time
-- ARGV cluster time, end of the claim, maximum of entries, deadline by Redis' clock: after it nobody hears
-- the reply, and nothing is claimed
-- Returns entries.
if now() > tonumber(ARGV[4]) then
  return {}
end
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])
for _, entry in ipairs(due) do
  redis.call('ZADD', KEYS[1], ARGV[2], entry)
end
return due
