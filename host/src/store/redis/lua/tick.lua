-- Renews a node's lease, and gives it what others left undone.
-- KEYS leases, dead, ends, clock
-- ARGV node, ms of a lease, ms of a claim, sessions at most
-- Gives the time, whether the lease was held, live nodes, dead nodes to reap, sessions whose time is over
local time = now()
local last = tonumber(redis.call('HGET', KEYS[4], 'tick') or '0')
redis.call('HSET', KEYS[4], 'tick', int(time))
-- When nobody could renew for a while, the store was away: everybody gets the time of a lease to come back.
if time - last > ARGV[2] / 3 then
  redis.call('HSET', KEYS[4], 'grace', int(time + ARGV[2]))
end
local held = redis.call('ZSCORE', KEYS[1], ARGV[1]) and 1 or 0
redis.call('ZADD', KEYS[1], int(time + ARGV[2]), ARGV[1])
if time > tonumber(redis.call('HGET', KEYS[4], 'grace') or '0') then
  for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', int(time))) do
    redis.call('ZREM', KEYS[1], node)
    redis.call('ZADD', KEYS[2], 0, node)
  end
end
local dead = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', int(time))
local due = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', int(time), 'LIMIT', 0, ARGV[4])
for _, node in ipairs(dead) do
  redis.call('ZADD', KEYS[2], int(time + ARGV[3]), node)
end
for _, session in ipairs(due) do
  redis.call('ZADD', KEYS[3], int(time + ARGV[3]), session)
end
return { int(time), held, redis.call('ZCARD', KEYS[1]), dead, due }
