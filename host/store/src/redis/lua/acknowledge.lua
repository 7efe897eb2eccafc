-- Writes what members have acknowledged. Ignores sessions that are not members, lower offsets and another
-- epoch.
-- KEYS room, acks
-- ARGV epoch, then offset and session of each
if redis.call('HGET', KEYS[1], 'epoch') == ARGV[1] then
  redis.call('ZADD', KEYS[2], 'XX', 'GT', unpack(ARGV, 2))
end
return 1
