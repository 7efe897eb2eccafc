-- Adds and removes members of a room, each unless something newer is known of it.
-- KEYS members, acks, fences, removals, room
-- ARGV ms to keep these, ms to remember a removal, ms to keep a room that nobody needs; then for each member
-- its principal, session, generation, number of the write that says so, in or out, deadline, and the epoch
-- and offset that it has acknowledged
-- Returns the room's epoch, then for each member: ok and the offset that it has acknowledged in this epoch,
-- older and the newer generation, or late and 0.
local time, epoch = now(), redis.call('HGET', KEYS[5], 'epoch') or ''
local answer = { epoch }
for n = 4, #ARGV, 8 do
  local session, gen, number, goes = ARGV[n + 1], tonumber(ARGV[n + 2]), tonumber(ARGV[n + 3]), ARGV[n + 4] == 'out'
  local fence = redis.call('HGET', KEYS[3], session)
  local newest, older, g, w, removed = 0, false, nil, nil, nil
  if fence then
    g, w, removed = string.match(fence, '^(%d+) (%d+)( ?%d*)$')
    newest, w = tonumber(g), tonumber(w)
    older = newest > gen or (newest == gen and (w > number or (w == number and removed ~= '' and not goes)))
  end
  local status, acknowledged = 'ok', 0
  if late(ARGV[n + 5], time) then
    status = 'late'
  elseif older then
    status, acknowledged = 'older', newest
  elseif goes then
    redis.call('ZREM', KEYS[1], ARGV[n] .. ' ' .. session)
    redis.call('ZREM', KEYS[2], session)
    redis.call('HSET', KEYS[3], session, int(gen) .. ' ' .. int(number) .. ' ' .. int(time))
    redis.call('ZADD', KEYS[4], int(time), session)
  else
    redis.call('ZADD', KEYS[1], 0, ARGV[n] .. ' ' .. session)
    if ARGV[n + 6] == epoch then
      acknowledged = ARGV[n + 7]
    end
    redis.call('ZADD', KEYS[2], 'GT', acknowledged, session)
    redis.call('HSET', KEYS[3], session, int(gen) .. ' ' .. int(number))
    if removed == '' then
      acknowledged = redis.call('ZSCORE', KEYS[2], session)
    elseif removed then
      redis.call('ZREM', KEYS[4], session)
    end
  end
  answer[#answer + 1] = status
  answer[#answer + 1] = int(acknowledged)
end
-- Nothing older than this can still arrive late.
local forgotten = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', int(time - ARGV[2]), 'LIMIT', 0, 1000)
if #forgotten > 0 then
  redis.call('HDEL', KEYS[3], unpack(forgotten))
  redis.call('ZREM', KEYS[4], unpack(forgotten))
end
for _, key in ipairs(KEYS) do
  redis.call('PEXPIRE', key, ARGV[1])
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('PEXPIRE', KEYS[3], int(2 * ARGV[2]))
  redis.call('PEXPIRE', KEYS[4], int(2 * ARGV[2]))
  -- Nobody is in the room: it expires with its messages. A node that listens to it prolongs that.
  local room = redis.call('HMGET', KEYS[5], 'offset', 'needed')
  if room[2] or not room[1] then
    redis.call('PEXPIRE', KEYS[5], int(math.max(tonumber(room[2] or '0') - time, 0) + ARGV[3]))
  end
end
return answer
