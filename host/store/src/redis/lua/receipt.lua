-- How many members have acknowledged a message.
-- KEYS room, acks
-- ARGV offset
-- Returns the number of members and of those that have acknowledged the offset; nothing for an offset that
-- was never used.
local newest, offset = redis.call('HGET', KEYS[1], 'offset'), tonumber(ARGV[1])
if not newest or offset < 1 or offset > tonumber(newest) then
  return false
end
return { redis.call('ZCARD', KEYS[2]), redis.call('ZCOUNT', KEYS[2], ARGV[1], '+inf') }
