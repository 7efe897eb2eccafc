-- Gives messages of a room their offsets in the order given, appends them to the log and sends them to the
-- nodes that listen; each once for its idempotency key.
-- KEYS room, log, acks, then idempotency keys
-- ARGV epoch of a new room, maximum of messages and maximum age in the log, ms to keep a room with members,
-- ms to keep an idempotency key, channel, ms to keep a room that nobody needs, maximum of bytes in the log,
-- deadline, name of this call, names of earlier calls that may still arrive; then for each message: all but
-- its head, the index of its key among the idempotency keys (0: it has none), whether it needs a member
-- Returns the time in microseconds after the deadline, when nothing is done. Otherwise epoch, whether the
-- room is new, and for each message its offset, which is 0 if it needs a member and there is none, and
-- whether it is a duplicate.
local BEFORE, FIELDS = 11, 3
-- How long calls that may still arrive are barred, in ms: none arrives later.
local BARRED = 15000

-- The size of all entries before one.
local function before(entry)
  return tonumber(entry[2][4] or '0')
end

local exact = micros()
local clock = math.floor(exact / 1000)
local room = redis.call('HMGET', KEYS[1], 'epoch', 'offset', 'time', 'tended', 'needed', 'sum', 'base', 'barred')
local barred = room[8]
-- The node gave this call up, and a later call of it has been carried out already.
local is_barred = barred and string.find(barred, ' ' .. ARGV[10] .. ' ', 1, true)
if is_barred or late(ARGV[9], clock) then
  return int(exact)
end
-- The offset for which each key was used in this epoch. Several messages may have the same key. Messages of an
-- epoch that has ended cannot be read any more.
local known = {}
for n = 4, #KEYS do
  local epoch, offset = string.match(redis.call('GET', KEYS[n]) or '', '^(%S+) (%d+)$')
  known[KEYS[n]] = epoch and epoch == room[1] and offset
end

local epoch, new = room[1], 0
local count, keep_keys = tonumber(room[2] or '0'), false
-- If the clock is set back, the times in a room do not go back.
local last = room[3] or '0'
local stamp = int(math.max(clock, tonumber(last)))
local holds = ARGV[2] ~= '0'
-- Each entry has the size of all entries before it, so that the first one tells how much is in the log.
-- `base` is that of the first entry as it was read last: it has only grown since.
local sum, base, most = tonumber(room[6] or '0'), tonumber(room[7] or '0'), tonumber(ARGV[8])
local function append(offset, message)
  redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[2], offset .. '-' .. stamp, 'm', message, 'b', int(sum))
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
end

local is_in_use
local function in_use()
  if is_in_use == nil then
    is_in_use = redis.call('EXISTS', KEYS[3]) == 1
  end
  return is_in_use
end

local answer, messages = { '', 0 }, {}
for at = BEFORE + 1, #ARGV, FIELDS do
  local key = ARGV[at + 1] ~= '0' and KEYS[3 + ARGV[at + 1]]
  local offset, duplicate = known[key], 1
  -- Each session that can be resumed is a member of the inbox of its principal.
  if not offset and ARGV[at + 2] == '1' and not in_use() then
    offset, duplicate = '0', 0
  elseif not offset then
    if not epoch then
      epoch, new = ARGV[1], 1
      redis.call('DEL', KEYS[1], KEYS[2])
      unacknowledge(KEYS[3])
      count, last, stamp, sum, base, room = 0, '0', int(clock), 0, 0, {}
    end
    count = count + 1
    offset, duplicate = int(count), 0
    local message = epoch .. ' ' .. offset .. ' ' .. stamp .. ' ' .. last .. ' ' .. ARGV[at]
    last = stamp
    if holds then
      append(offset, message)
    end
    if key then
      redis.call('SET', key, epoch .. ' ' .. offset, 'PX', ARGV[5])
      known[key], keep_keys = offset, true
    end
    messages[#messages + 1] = message
  end
  answer[#answer + 1] = offset
  answer[#answer + 1] = duplicate
end
answer[1], answer[2] = epoch or '', new
-- Until when calls are barred, then their names, each between spaces.
local ends = barred and tonumber(string.match(barred, '^%d+'))
if epoch and ARGV[11] ~= '' then
  local names = ends and ends > clock and string.match(barred, ' .*') or ' '
  redis.call('HSET', KEYS[1], 'barred', int(clock + BARRED) .. names .. string.sub(ARGV[11], 2) .. ' ')
elseif ends and ends <= clock then
  redis.call('HDEL', KEYS[1], 'barred')
end
if #messages == 0 then
  return answer
end
if not holds then
  -- A node that keeps a log may have written before, and a log must not have holes.
  redis.call('DEL', KEYS[2])
end
-- Until when its messages and keys need the room, even if nobody is in it.
local tended, needed = tonumber(room[4] or '0'), tonumber(room[5] or '0')
if clock < tended then
  needed = 0
end
local needs = clock + math.max(holds and ARGV[3] + 1000 or 0, keep_keys and tonumber(ARGV[5]) or 0)
-- Old messages are dropped once a second, so everything is kept for that much longer.
if clock - tended >= math.min(1000, ARGV[3] / 2) or clock < tended or needs - needed >= 1000 then
  needed = math.max(needed, needs)
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'offset', int(count), 'time', stamp, 'tended', int(clock), 'needed', int(needed),
    'sum', int(sum), 'base', int(base))
  trim(KEYS[2], clock - ARGV[3])
  redis.call('PEXPIRE', KEYS[2], int(ARGV[3] + 1000))
  redis.call('PEXPIRE', KEYS[1], in_use() and ARGV[4] or int(needed - clock + ARGV[7]))
else
  redis.call('HSET', KEYS[1], 'offset', int(count), 'time', stamp, 'sum', int(sum), 'base', int(base))
end
for _, message in ipairs(messages) do
  redis.call('SPUBLISH', ARGV[6], message)
end
return answer
