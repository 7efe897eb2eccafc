-- Renews a node's lease, and hands it what other nodes left undone. All times are cluster time, which each
-- node advances.
-- KEYS leases, dead, ends, clock
-- ARGV node, ms of a lease, ms of a claim, maximum of sessions, whether to take a new lease, the former name
-- of the node that it replaces ('': none), deadline by Redis' clock: after it nobody hears the reply, and
-- nothing is claimed; cluster time as the node knows it (0: it does not)
-- Returns Redis' time in microseconds, cluster time, until when the lease was held ('': it was not, and
-- nothing is done), number of live nodes, then dead nodes and sessions whose time is over, for this node to
-- clear away, each followed by its score on its list.
local exact = micros()
local time = math.max(tonumber(redis.call('HGET', KEYS[4], 'time') or '0'), tonumber(ARGV[8]))
if time == 0 then
  time = math.floor(exact / 1000)
end
redis.call('HSET', KEYS[4], 'time', int(time))
local held = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not held and ARGV[5] ~= '1' then
  return { int(exact), int(time), '', 0, {}, {} }
end
redis.call('ZADD', KEYS[1], int(time + ARGV[2]), ARGV[1])
if ARGV[6] ~= '' then
  -- Its connections have until then to take their sessions back.
  redis.call('ZREM', KEYS[1], ARGV[6])
  -- A node that is clearing it away now must not remove it from the list: more may have been left since.
  redis.call('ZADD', KEYS[2], int(time + ARGV[2]), ARGV[6])
end
for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', int(time))) do
  redis.call('ZREM', KEYS[1], node)
  redis.call('ZADD', KEYS[2], 0, node)
end
local gone, due = {}, {}
if math.floor(exact / 1000) <= tonumber(ARGV[7]) then
  gone = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', int(time))
  due = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', int(time), 'LIMIT', 0, ARGV[4])
end
local claimed, dead, ends = int(time + ARGV[3]), {}, {}
for _, node in ipairs(gone) do
  redis.call('ZADD', KEYS[2], claimed, node)
  dead[#dead + 1] = node
  dead[#dead + 1] = claimed
end
for _, session in ipairs(due) do
  redis.call('ZADD', KEYS[3], claimed, session)
  ends[#ends + 1] = session
  ends[#ends + 1] = claimed
end
held = held and int(held) or int(time + ARGV[2])
return { int(exact), int(time), held, redis.call('ZCARD', KEYS[1]), dead, ends }
