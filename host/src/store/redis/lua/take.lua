-- Hands a session to a connection, unless it was handed to another after this one asked.
-- KEYS session
-- ARGV connection, node, when it asked in microseconds, deadline, ms the session is kept, cluster time
-- Gives ok, none, again or late, and the time in microseconds; with ok the generation, the connection that held it and that one's node, then
-- rooms and places
local is = redis.call('HMGET', KEYS[1], 'gen', 'conn', 'node', 'taken', 'until')
local exact, asked = micros(), tonumber(ARGV[3])
local time = math.floor(exact / 1000)
if late(ARGV[4], time) then
  return { 'late', int(exact) }
end
if not is[1] or (is[5] and tonumber(is[5]) <= tonumber(ARGV[6])) then
  return { 'none', int(exact) }
end
local taken = tonumber(is[4] or '0')
if asked > exact or (asked < taken and taken <= exact) then
  return { 'again', int(exact) }
end
local gen = math.max(is[1] + 1, time)
redis.call('HSET', KEYS[1], 'gen', int(gen), 'n', '0', 'conn', ARGV[1], 'node', ARGV[2], 'taken', int(exact))
redis.call('HDEL', KEYS[1], 'until')
redis.call('PEXPIRE', KEYS[1], ARGV[5])
local held = not is[5]
local answer = { 'ok', int(exact), int(gen), held and is[2] or '', held and is[3] or '' }
return places(KEYS[1], answer)
