-- Hands a session to a connection, unless it was handed to another after this one asked, and takes a place for the connection. There is
-- always one if the session was another connection's, which gives its own back.
-- KEYS session, then, where a place is to be taken, connections: a field a node
-- ARGV connection, node, when it asked in microseconds, deadline, ms the session is kept, cluster time, then of the place the node's
-- connections with this one, most on all nodes, ms the counts are kept
-- Gives ok, none, again, full or late, and the time in microseconds; with ok the generation, the connection that held it and that one's
-- node, then rooms and places; with full how many places are taken: then the session is as it was. A place is taken with ok and none
local is = redis.call('HMGET', KEYS[1], 'gen', 'conn', 'node', 'taken', 'until')
local exact, asked = micros(), tonumber(ARGV[3])
local time = math.floor(exact / 1000)
if late(ARGV[4], time) then
  return { 'late', int(exact) }
end
local taken_places = -1
local function takes_place(most)
  if KEYS[2] then
    taken_places = place(KEYS[2], ARGV[2], ARGV[7], most, ARGV[9])
  end
  return taken_places < 0
end
if not is[1] or (is[5] and tonumber(is[5]) <= tonumber(ARGV[6])) then
  return takes_place(ARGV[8]) and { 'none', int(exact) } or { 'full', int(exact), int(taken_places) }
end
local taken = tonumber(is[4] or '0')
if asked > exact or (asked < taken and taken <= exact) then
  return { 'again', int(exact) }
end
local held = not is[5]
if not takes_place(held and 2 ^ 53 or ARGV[8]) then
  return { 'full', int(exact), int(taken_places) }
end
local gen = math.max(is[1] + 1, time)
redis.call('HSET', KEYS[1], 'gen', int(gen), 'n', '0', 'conn', ARGV[1], 'node', ARGV[2], 'taken', int(exact))
redis.call('HDEL', KEYS[1], 'until')
redis.call('PEXPIRE', KEYS[1], ARGV[5])
local answer = { 'ok', int(exact), int(gen), held and is[2] or '', held and is[3] or '' }
return places(KEYS[1], answer)
