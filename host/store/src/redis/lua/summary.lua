-- Summarizes a room.
-- KEYS room, log, acks
-- ARGV maximum age of messages
-- Returns epoch, offset, number of members and of messages; nothing if the room does not exist.
local room = redis.call('HMGET', KEYS[1], 'epoch', 'offset')
if not room[1] then
  return false
end
trim(KEYS[2], now() - ARGV[1])
return { room[1], room[2] or '0', redis.call('ZCARD', KEYS[3]), redis.call('XLEN', KEYS[2]) }
