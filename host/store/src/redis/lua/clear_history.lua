-- Starts a new epoch of a room, so that its history is gone, and has the nodes that listen read the room again. Does
-- so once for an epoch.
-- KEYS room, log, acks
-- ARGV the epoch that ends, the one that starts, channel
if redis.call('HGET', KEYS[1], 'epoch') == ARGV[1] then
  redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'tended', '0')
  redis.call('DEL', KEYS[2])
  unacknowledge(KEYS[3])
  -- A message with an offset that no message has. Only its epoch matters.
  redis.call('SPUBLISH', ARGV[3], ARGV[2] .. ' 0 0 0 - null')
end
return 1
