-- Gives a message its offset, keeps it and sends it to the nodes that watch, once for an idempotency key.
-- KEYS room, log, [once]
-- ARGV epoch of a new room, message without its head, messages held, age, ms the room is kept, ms the key is, channel
-- Gives epoch, offset, whether it is a duplicate, whether the room is new
local known = KEYS[3] and redis.call('GET', KEYS[3])
if known then
  local epoch, offset = string.match(known, '^(%S+) (%d+)$')
  return { epoch, offset, 1, 0 }
end
local is = redis.call('HMGET', KEYS[1], 'epoch', 'time', 'trimmed')
local epoch, before, new = is[1], is[2] or '0', 0
if not epoch then
  epoch, before, new = ARGV[1], '0', 1
  redis.call('DEL', KEYS[1], KEYS[2])
  redis.call('HSET', KEYS[1], 'epoch', epoch)
end
-- A clock that is set back does not turn the order of a room's times.
local time = math.max(now(), tonumber(before))
local offset = int(redis.call('HINCRBY', KEYS[1], 'offset', 1))
local message = epoch .. ' ' .. offset .. ' ' .. int(time) .. ' ' .. before .. ' ' .. ARGV[2]
redis.call('HSET', KEYS[1], 'time', int(time))
if ARGV[3] ~= '0' then
  redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[3], offset .. '-' .. int(time), 'm', message)
  if time - tonumber(is[3] or '0') >= 1000 then
    trim(KEYS[2], time - ARGV[4])
    redis.call('HSET', KEYS[1], 'trimmed', int(time))
  end
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
end
redis.call('PEXPIRE', KEYS[1], ARGV[5])
if KEYS[3] then
  redis.call('SET', KEYS[3], epoch .. ' ' .. offset, 'PX', ARGV[6])
end
redis.call('SPUBLISH', ARGV[7], message)
return { epoch, offset, 0, new }
