-- Starts the time to live of a session.
-- KEYS session
-- ARGV connection and node that must hold it ('': any), cluster time, ms until it ends, ms to keep it,
-- whether to return its rooms; then, where the outcome of a write is unknown, its generation and number,
-- rooms and memberships
-- Returns no or gone, and the time; or ok, the time, generation, number of the last write, and when it ends
-- by cluster time, then rooms and memberships.
local record = redis.call('HMGET', KEYS[1], 'gen', 'n', 'conn', 'node', 'until')
local time = now()
if not record[1] then
  return { 'gone', int(time) }
end
if (ARGV[1] ~= '' and record[3] ~= ARGV[1]) or (ARGV[2] ~= '' and record[4] ~= ARGV[2]) then
  return { 'no', int(time) }
end
local gen, number, ends = record[1], record[2], record[5]
if ARGV[7] and ARGV[7] == gen and tonumber(ARGV[8]) > tonumber(number) then
  number = ARGV[8]
  redis.call('HSET', KEYS[1], 'n', number)
  replace(KEYS[1], 9, {})
end
if not ends then
  -- 0 is before any time.
  ends = ARGV[4] == '0' and '0' or int(ARGV[3] + ARGV[4])
  redis.call('HSET', KEYS[1], 'until', ends)
end
redis.call('PEXPIRE', KEYS[1], ARGV[5])
local answer = { 'ok', int(time), gen, number, ends }
if ARGV[6] == '1' and tonumber(ends) > tonumber(ARGV[3]) then
  append_memberships(KEYS[1], answer)
end
return answer
