-- Writes entries of a registry, each unless a newer version of it is there.
-- KEYS registry: entries, and its revision in a field of its own
-- ARGV epoch of a new registry, ms to remember a revoked entry, then for each entry its name, its version
-- ('': newer than all others), and its content ('': it is revoked)
-- Returns how many of them existed and were not revoked.
local newest, before = 0, 0
for n = 3, #ARGV, 3 do
  newest = math.max(newest, tonumber(ARGV[n + 1]) or 0)
end
newest = revise(KEYS[1], ARGV[1], newest)
for n = 3, #ARGV, 3 do
  local last, content = string.match(redis.call('HGET', KEYS[1], ARGV[n]) or '', '^(%d+)( ?)')
  if content == ' ' then
    before = before + 1
  end
  local version = tonumber(ARGV[n + 1]) or newest
  if version > tonumber(last or '-1') then
    local text = ARGV[n + 2] == '' and int(version) or int(version) .. ' ' .. ARGV[n + 2]
    redis.call('HSET', KEYS[1], ARGV[n], text)
  end
end
local all = redis.call('HGETALL', KEYS[1])
for n = 1, #all, 2 do
  local version = string.match(all[n + 1], '^(%d+)$')
  if version and now() - version > tonumber(ARGV[2]) then
    redis.call('HDEL', KEYS[1], all[n])
  end
end
return before
