-- Whether a connection can resume a session, and would get a slot. A session that another connection holds needs
-- no free slot, because that connection releases its own.
-- KEYS session; then, if a slot is needed, connections: a hash with a field for each node
-- ARGV cluster time; then for the slot node, its connections including the new one, maximum on all nodes
-- Returns ok, none or full; with full the number of connections. Changes nothing.
local record = redis.call('HMGET', KEYS[1], 'gen', 'until')
local exists = record[1] and not (record[2] and tonumber(record[2]) <= tonumber(ARGV[1]))
local held = exists and not record[2]
if KEYS[2] and not held then
  local count = count_connections(KEYS[2], ARGV[2]) + tonumber(ARGV[3])
  if count > tonumber(ARGV[4]) then
    return { 'full', int(count - 1) }
  end
end
return { exists and 'ok' or 'none' }
