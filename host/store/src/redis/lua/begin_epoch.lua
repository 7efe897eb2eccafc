-- Starts a new epoch of a room, because its offsets do not continue from what was seen. Does so once for an
-- epoch.
-- KEYS room, log, acks
-- ARGV the epoch that ends, the one that starts
if redis.call('HGET', KEYS[1], 'epoch') == ARGV[1] then
  redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'tended', '0')
  redis.call('DEL', KEYS[2])
  unacknowledge(KEYS[3])
end
return 1
