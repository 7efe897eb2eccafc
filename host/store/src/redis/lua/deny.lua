-- Writes entries of the registry of bans and revocations, each unless a newer version of it is there. What can be
-- forgotten is removed. An entry is: version, when it is forgotten, and unless it was lifted, from when to when it holds.
-- KEYS registry: entries, and its revision in a field of its own
-- ARGV epoch of a new registry, most entries in force, most others, ms to keep an entry after it is forgotten, then
-- for each entry its name, its version ('': newer than all others), when it is forgotten ('': as before), and from
-- when to when it holds ('': it is lifted)
-- Returns how many of them were in force before, or -1 if one was not written because too many are in force, or -2
-- because a new one would have ended already.
local time, max_in_force, max_past, kept = now(), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local function parse(text)
  local version, forgotten, rest = string.match(text or '', '^(%d+) (%d+)(.*)$')
  local since, ends = string.match(rest or '', '^ (%d+) (%d+)$')
  return {
    version = tonumber(version or '-1'),
    forgotten = tonumber(forgotten or '0'),
    since = tonumber(since or '0'),
    ends = tonumber(ends or '0'),
    holds = ends ~= nil and tonumber(ends) > time,
  }
end
-- Bans are rare, so that going through all of them, which are bounded, is cheap enough.
local in_force, entries = 0, {}
local all = redis.call('HGETALL', KEYS[1])
for n = 1, #all, 2 do
  if all[n] ~= '/revision' then
    entries[all[n]] = parse(all[n + 1])
    in_force = in_force + (entries[all[n]].holds and 1 or 0)
  end
end
local newest, number = 0, nil
for n = 5, #ARGV, 4 do
  newest = math.max(newest, tonumber(ARGV[n + 1]) or 0)
end
local before, is_full, has_ended = 0, false, false
for n = 5, #ARGV, 4 do
  local name, version = ARGV[n], tonumber(ARGV[n + 1])
  local known = entries[name] or parse(nil)
  local since, ends = string.match(ARGV[n + 3], '^(%d+) (%d+)$')
  local is_period = ends ~= nil
  since, ends = tonumber(since or '0'), tonumber(ends or '0')
  local forgotten = math.max(known.forgotten, tonumber(ARGV[n + 2]) or 0)
  -- Revoking tokens again, on any node, must not make one valid earlier.
  if is_period and not version and known.holds and string.match(name, '^tokens? ') then
    since, ends = math.max(since, known.since), math.max(ends, known.ends)
  end
  local is_new = ends > time and not known.holds
  before = before + (known.holds and 1 or 0)
  -- Lifting what does not hold changes nothing.
  local is_change = version or is_period or known.holds
  if (version or math.huge) <= known.version or not is_change or forgotten + kept < time then
    has_ended = has_ended or not version and is_period
  elseif not version and is_period and ends <= time then
    has_ended = true
  elseif is_new and in_force >= max_in_force then
    is_full = true
  else
    number = number or revise(KEYS[1], ARGV[1], newest)
    local text = int(version or number) .. ' ' .. int(forgotten)
    text = is_period and text .. ' ' .. int(since) .. ' ' .. int(ends) or text
    redis.call('HSET', KEYS[1], name, text)
    entries[name] = parse(text)
    in_force = in_force + (is_new and 1 or 0)
  end
end
-- After writing, because nodes may write a lot that is past.
local past = {}
for name, entry in pairs(entries) do
  if entry.holds or entry.version < 0 then
    -- It stays. What cannot be read may be of a later version.
  elseif entry.forgotten + kept < time then
    redis.call('HDEL', KEYS[1], name)
  else
    past[#past + 1] = { entry.version, name }
  end
end
table.sort(past, function(a, b)
  return a[1] < b[1] or a[1] == b[1] and a[2] < b[2]
end)
for n = 1, #past - max_past do
  redis.call('HDEL', KEYS[1], past[n][2])
end
if has_ended then
  return -2
end
return is_full and -1 or before
