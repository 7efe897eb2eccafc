-- Reads a piece of a room's log; makes the room where there is none.
-- KEYS room, log, acks
-- ARGV epoch of a new room, epoch and offset to read after ('' and 0: from the oldest), limit, age, ms the room is kept
-- Gives epoch, newest offset, its time, oldest offset held (newest + 1: none), whether the room is new, messages
local is = redis.call('HMGET', KEYS[1], 'epoch', 'offset', 'time')
local epoch, offset, time, new = is[1], tonumber(is[2] or '0'), is[3] or '0', 0
if not epoch then
  epoch, offset, time, new = ARGV[1], 0, '0', 1
  redis.call('DEL', KEYS[1], KEYS[2])
  unacknowledge(KEYS[3])
  redis.call('HSET', KEYS[1], 'epoch', epoch)
  redis.call('PEXPIRE', KEYS[1], ARGV[6])
end
trim(KEYS[2], now() - ARGV[5])
local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
local oldest = first and tonumber(string.match(first[1], '^(%d+)')) or offset + 1
local from, after, messages = oldest, tonumber(ARGV[3]), {}
if ARGV[2] == epoch and after <= offset then
  from = math.max(oldest, after + 1)
end
if ARGV[4] ~= '0' then
  for n, entry in ipairs(redis.call('XRANGE', KEYS[2], int(from), '+', 'COUNT', ARGV[4])) do
    messages[n] = entry[2][2]
  end
end
return { epoch, int(offset), time, int(oldest), new, messages }
