-- Reads a part of a room's log. If the room does not exist, it is created for a node that listens to it.
-- Others get an epoch that no room has.
-- KEYS room, log, acks
-- ARGV epoch of a new room, epoch and offset to read after ('' and 0: from the oldest), maximum of messages,
-- maximum age, ms to keep the room at least for a node that listens to it (0: it does not), maximum of bytes,
-- which the first message may exceed
-- Returns epoch, newest offset, its time, oldest offset in the log (newest + 1: none), messages.
local room = redis.call('HMGET', KEYS[1], 'epoch', 'offset', 'time')
local epoch, offset, time = room[1], tonumber(room[2] or '0'), room[3] or '0'
if not epoch and ARGV[6] == '0' then
  return { ARGV[1], '0', '0', '1', {} }
end
if not epoch then
  epoch, offset, time = ARGV[1], 0, '0'
  redis.call('DEL', KEYS[1], KEYS[2])
  unacknowledge(KEYS[3])
  redis.call('HSET', KEYS[1], 'epoch', epoch)
end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[6]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[6])
end
trim(KEYS[2], now() - ARGV[5])
local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
local oldest = first and tonumber(string.match(first[1], '^(%d+)')) or offset + 1
local from, after, messages = oldest, tonumber(ARGV[3]), {}
if ARGV[2] == epoch and after <= offset then
  from = math.max(oldest, after + 1)
end
-- In growing chunks, to avoid reading more than is returned.
local most, bytes, piece, full = tonumber(ARGV[4]), tonumber(ARGV[7]), 1, false
while not full and #messages < most do
  piece = math.min(piece * 2, most - #messages, 32)
  local entries = redis.call('XRANGE', KEYS[2], int(from), '+', 'COUNT', piece)
  for _, entry in ipairs(entries) do
    local message = entry[2][2]
    bytes = bytes - #message
    if bytes < 0 and #messages > 0 then
      full = true
      break
    end
    messages[#messages + 1] = message
    from = tonumber(string.match(entry[1], '^(%d+)')) + 1
  end
  full = full or #entries < piece
end
return { epoch, int(offset), time, int(oldest), messages }
