-- Starts a session's time to live.
-- KEYS session
-- ARGV the connection or the node that must hold it ('' where it does not matter), cluster time, ms until it ends, ms it is kept,
-- whether its rooms are asked for, then, where a write of it is in doubt, generation, number of the write, rooms and places
-- Gives no or gone and the time; or ok, the time, generation, number, and when it ends by cluster time, then rooms and places
local is = redis.call('HMGET', KEYS[1], 'gen', 'n', 'conn', 'node', 'until')
local time = now()
if not is[1] then
  return { 'gone', int(time) }
end
if (ARGV[1] ~= '' and is[3] ~= ARGV[1]) or (ARGV[2] ~= '' and is[4] ~= ARGV[2]) then
  return { 'no', int(time) }
end
local gen, number, ends = is[1], is[2], is[5]
if ARGV[7] and ARGV[7] == gen and tonumber(ARGV[8]) > tonumber(number) then
  number = ARGV[8]
  redis.call('HSET', KEYS[1], 'n', number)
  replace(KEYS[1], 9, {})
end
if not ends then
  -- What is over is over at any time.
  ends = ARGV[4] == '0' and '0' or int(ARGV[3] + ARGV[4])
  redis.call('HSET', KEYS[1], 'until', ends)
end
redis.call('PEXPIRE', KEYS[1], ARGV[5])
local answer = { 'ok', int(time), gen, number, ends }
if ARGV[6] == '1' and tonumber(ends) > tonumber(ARGV[3]) then
  places(KEYS[1], answer)
end
return answer
