-- Begins a room anew, because its offsets cannot be trusted to go on from what was seen; once for an epoch.
-- KEYS room, log, acks
-- ARGV the epoch that ends, the one that begins
if redis.call('HGET', KEYS[1], 'epoch') == ARGV[1] then
  redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'tended', '0')
  redis.call('DEL', KEYS[2])
  unacknowledge(KEYS[3])
end
return 1
