-- Removes rooms that are gone from the list of rooms, each unless it was listed again since that was found out:
-- listing a room sets the time of its next check.
-- KEYS names, checks
-- ARGV for each room its name, and the time of its next check as it was found ('': it had none)
-- Returns how many were removed.
local removed = 0
for n = 1, #ARGV, 2 do
  local score = redis.call('ZSCORE', KEYS[2], ARGV[n])
  if (score and int(score) or '') == ARGV[n + 1] then
    redis.call('ZREM', KEYS[1], ARGV[n])
    redis.call('ZREM', KEYS[2], ARGV[n])
    removed = removed + 1
  end
end
return removed
