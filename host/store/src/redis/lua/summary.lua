-- KEYS room, log, acks
-- ARGV age
-- Gives epoch, offset, members, messages; nothing for a room that is not there
local is = redis.call('HMGET', KEYS[1], 'epoch', 'offset')
if not is[1] then
  return false
end
trim(KEYS[2], now() - ARGV[1])
return { is[1], is[2] or '0', redis.call('ZCARD', KEYS[3]), redis.call('XLEN', KEYS[2]) }
