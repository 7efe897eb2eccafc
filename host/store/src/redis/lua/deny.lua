-- Writes entries of the registry of bans and revocations, each unless a newer version of it is there. What can be
-- forgotten is removed. An entry is: version, when it is forgotten, and unless it was lifted, from when to when it holds.
-- KEYS registry: entries, and its revision in a field of its own
-- ARGV epoch of a new registry, most entries in force, most others, ms to keep an entry after it is forgotten, then
-- for each entry its name, its version ('': newer than all others), when it is forgotten ('': as before), and from
-- when to when it holds ('': it is lifted)
-- Returns how many of them were in force before, or -1 if one was not written because too many are in force.
local time, max_in_force, kept = now(), tonumber(ARGV[2]), tonumber(ARGV[4])
local function parse(text)
  local version, forgotten, rest = string.match(text or '', '^(%d+) (%d+)(.*)$')
  local ends = string.match(rest or '', '^ %d+ (%d+)$')
  return tonumber(version or '-1'), tonumber(forgotten or '0'), ends ~= nil and tonumber(ends) > time
end
-- Bans are rare, so that going through all of them, which are bounded, is cheap enough.
local in_force, past = 0, {}
local all = redis.call('HGETALL', KEYS[1])
for n = 1, #all, 2 do
  local version, forgotten, holds = parse(all[n + 1])
  if holds then
    in_force = in_force + 1
  elseif version >= 0 and forgotten + kept < time then
    redis.call('HDEL', KEYS[1], all[n])
  elseif version >= 0 then
    past[#past + 1] = { version, all[n] }
  end
end
table.sort(past, function(a, b) return a[1] < b[1] end)
for n = 1, #past - tonumber(ARGV[3]) do
  redis.call('HDEL', KEYS[1], past[n][2])
end
local newest, number = 0, nil
for n = 5, #ARGV, 4 do
  newest = math.max(newest, tonumber(ARGV[n + 1]) or 0)
end
local before, is_full = 0, false
for n = 5, #ARGV, 4 do
  local name, period = ARGV[n], ARGV[n + 3]
  local version, forgotten, held = parse(redis.call('HGET', KEYS[1], name))
  local ends = tonumber(string.match(period, ' (%d+)$') or '0')
  local is_new = period ~= '' and not held and ends > time
  forgotten = math.max(forgotten, tonumber(ARGV[n + 2]) or 0)
  before = before + (held and 1 or 0)
  local is_newer = (tonumber(ARGV[n + 1]) or math.huge) > version
  -- Lifting what does not hold changes nothing.
  local is_change = ARGV[n + 1] ~= '' or period ~= '' or held
  if is_newer and is_new and in_force >= max_in_force then
    is_full = true
  elseif is_newer and is_change and forgotten + kept >= time then
    number = number or revise(KEYS[1], ARGV[1], newest)
    local text = int(tonumber(ARGV[n + 1]) or number) .. ' ' .. int(forgotten)
    redis.call('HSET', KEYS[1], name, period == '' and text or text .. ' ' .. period)
    in_force = in_force + (is_new and 1 or 0)
  end
end
return is_full and -1 or before
