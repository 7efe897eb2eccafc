-- Hands a session to a connection, unless another connection that asked later has it, and acquires a slot for
-- the connection. There is always one if the session was another connection's, because that one releases its
-- own.
-- KEYS session; then, if a slot is to be acquired, connections: a hash with a field for each node
-- ARGV connection, node, when it asked in microseconds, deadline, ms to keep the session, cluster time; then
-- for the slot the node's connections including this one, maximum on all nodes, ms to keep the counts
-- Returns ok, none, again, full or late, and the time in microseconds; with ok the generation, the connection
-- that held the session and the node of that one, then rooms and memberships; with full the number of
-- connections. With ok and none the slot is acquired; otherwise nothing has changed.
local record = redis.call('HMGET', KEYS[1], 'gen', 'conn', 'node', 'taken', 'until')
local exact, asked = micros(), tonumber(ARGV[3])
local time = math.floor(exact / 1000)
if late(ARGV[4], time) then
  return { 'late', int(exact) }
end
local slot = -1
local function gets_slot(max_connections)
  if KEYS[2] then
    slot = acquire_slot(KEYS[2], ARGV[2], ARGV[7], max_connections, ARGV[9])
  end
  return slot < 0
end
if not record[1] or (record[5] and tonumber(record[5]) <= tonumber(ARGV[6])) then
  return gets_slot(ARGV[8]) and { 'none', int(exact) } or { 'full', int(exact), int(slot) }
end
local taken = tonumber(record[4] or '0')
if asked > exact or (asked < taken and taken <= exact) then
  return { 'again', int(exact) }
end
local held = not record[5]
if not gets_slot(held and 2 ^ 53 or ARGV[8]) then
  return { 'full', int(exact), int(slot) }
end
local gen = math.max(record[1] + 1, time)
redis.call('HSET', KEYS[1], 'gen', int(gen), 'n', '0', 'conn', ARGV[1], 'node', ARGV[2], 'taken', int(exact))
redis.call('HDEL', KEYS[1], 'until')
redis.call('PEXPIRE', KEYS[1], ARGV[5])
local answer = { 'ok', int(exact), int(gen), held and record[2] or '', held and record[3] or '' }
return append_memberships(KEYS[1], answer)
