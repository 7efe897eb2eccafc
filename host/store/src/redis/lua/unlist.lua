-- Takes rooms that are gone from the list, each unless it was listed anew since it was looked at.
-- KEYS names, checks
-- ARGV the score that they were given for being looked at, then rooms
for n = 2, #ARGV do
  local score = redis.call('ZSCORE', KEYS[2], ARGV[n])
  if score and int(score) == ARGV[1] then
    redis.call('ZREM', KEYS[1], ARGV[n])
    redis.call('ZREM', KEYS[2], ARGV[n])
  end
end
return 1
