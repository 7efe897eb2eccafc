-- Hands a session to a connection.
-- KEYS session
-- ARGV connection, node, ms the session is kept
-- Gives the connection that had it, that one's node, fields and values; nothing for a session that is not there
local is = redis.call('HMGET', KEYS[1], '/connection', '/node', '/until')
if not is[1] and not is[3] then
  return false
end
if is[3] and tonumber(is[3]) <= now() then
  return false
end
redis.call('HSET', KEYS[1], '/connection', ARGV[1], '/node', ARGV[2])
redis.call('HDEL', KEYS[1], '/until')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return { is[1] or '', is[2] or '', redis.call('HGETALL', KEYS[1]) }
