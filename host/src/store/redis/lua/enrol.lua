-- Brings members into a room and out of it.
-- KEYS members, acks, room
-- ARGV ms these are kept, how many come, then principal, session and acknowledged offset of each, then principal and
-- session of each that goes
local last = 2 + 3 * ARGV[2]
for n = 3, last, 3 do
  redis.call('ZADD', KEYS[1], 0, ARGV[n] .. ' ' .. ARGV[n + 1])
  redis.call('ZADD', KEYS[2], ARGV[n + 2], ARGV[n + 1])
end
for n = last + 1, #ARGV, 2 do
  redis.call('ZREM', KEYS[1], ARGV[n] .. ' ' .. ARGV[n + 1])
  redis.call('ZREM', KEYS[2], ARGV[n + 1])
end
for _, key in ipairs(KEYS) do
  redis.call('PEXPIRE', key, ARGV[1])
end
return 1
