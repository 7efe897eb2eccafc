-- KEYS room, acks
-- ARGV offset
-- Gives members and those that have acknowledged the offset; nothing for an offset that was never given
local newest, offset = redis.call('HGET', KEYS[1], 'offset'), tonumber(ARGV[1])
if not newest or offset < 1 or offset > tonumber(newest) then
  return false
end
return { redis.call('ZCARD', KEYS[2]), redis.call('ZCOUNT', KEYS[2], ARGV[1], '+inf') }
