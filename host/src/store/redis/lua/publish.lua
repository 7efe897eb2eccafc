-- Gives a message its offset, keeps it and sends it to the nodes that watch, once for an idempotency key.
-- KEYS room, log, acks, [once]
-- ARGV epoch of a new room, message without its head, messages held, age, ms a room with members is kept, ms the key is, channel, ms
-- a room is kept that nobody needs, whether it must have a member, bytes held
-- Gives epoch, offset, whether it is a duplicate, whether the room is new; nothing where it has no member and must have one
-- What all entries before one took.
local function before(entry)
  return tonumber(entry[2][4] or '0')
end

local is = redis.call('HMGET', KEYS[1], 'epoch', 'offset', 'time', 'tended', 'needed', 'sum', 'base')
local known = KEYS[4] and redis.call('GET', KEYS[4])
if known then
  local epoch, offset = string.match(known, '^(%S+) (%d+)$')
  -- Of an epoch that has ended nobody can get a message any more.
  if epoch == is[1] then
    return { epoch, offset, 1, 0 }
  end
end
-- Each session that can be resumed is a member of the inbox of its principal.
if ARGV[9] == '1' and redis.call('EXISTS', KEYS[3]) == 0 then
  return false
end
local epoch, last, new = is[1], is[3] or '0', 0
if not epoch then
  epoch, last, new = ARGV[1], '0', 1
  redis.call('DEL', KEYS[1], KEYS[2])
  unacknowledge(KEYS[3])
  is = { epoch, '0', '0' }
end
-- A clock that is set back does not turn the order of a room's times.
local clock = now()
local time = math.max(clock, tonumber(last))
local offset, stamp = int((is[2] or 0) + 1), int(time)
local message = epoch .. ' ' .. offset .. ' ' .. stamp .. ' ' .. last .. ' ' .. ARGV[2]
local holds = ARGV[3] ~= '0'
-- Each entry says what all before it took, so that the first one tells what is held. `base` is that of the first one when it was
-- looked at last: it has only grown since.
local sum, base, most = tonumber(is[6] or '0'), tonumber(is[7] or '0'), tonumber(ARGV[10])
if holds then
  redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[3], offset .. '-' .. stamp, 'm', message, 'b', int(sum))
  sum = sum + #message + 100
  if sum - base > most then
    local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
    base = before(first)
    if sum - base > most then
      first = drop_until(KEYS[2], function(entry)
        return sum - before(entry) <= most * 7 / 8
      end)
      base = first and before(first) or sum
    end
  end
else
  -- A node that holds more may have written: a log has no holes.
  redis.call('DEL', KEYS[2])
end
-- Until when its messages and keys need the room, whoever is in it.
local tended, needed = tonumber(is[4] or '0'), tonumber(is[5] or '0')
if clock < tended then
  needed = 0
end
local needs = clock + math.max(holds and ARGV[4] + 1000 or 0, KEYS[4] and tonumber(ARGV[6]) or 0)
-- What grows old is seen to once a second, and what is kept is kept for that much longer.
if clock - tended >= math.min(1000, ARGV[4] / 2) or clock < tended or needs - needed >= 1000 then
  needed = math.max(needed, needs)
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'offset', offset, 'time', stamp, 'tended', int(clock), 'needed', int(needed),
    'sum', int(sum), 'base', int(base))
  trim(KEYS[2], clock - ARGV[4])
  redis.call('PEXPIRE', KEYS[2], int(ARGV[4] + 1000))
  local is_in_use = redis.call('EXISTS', KEYS[3]) == 1
  redis.call('PEXPIRE', KEYS[1], is_in_use and ARGV[5] or int(needed - clock + ARGV[8]))
else
  redis.call('HSET', KEYS[1], 'offset', offset, 'time', stamp, 'sum', int(sum), 'base', int(base))
end
if KEYS[4] then
  redis.call('SET', KEYS[4], epoch .. ' ' .. offset, 'PX', ARGV[6])
end
redis.call('SPUBLISH', ARGV[7], message)
return { epoch, offset, 0, new }
