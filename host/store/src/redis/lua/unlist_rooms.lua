-- Removes rooms that are gone from the list of rooms, each unless it was listed again since it was claimed.
-- KEYS names, checks
-- ARGV the score that the claim gave them, then rooms
for n = 2, #ARGV do
  local score = redis.call('ZSCORE', KEYS[2], ARGV[n])
  if score and int(score) == ARGV[1] then
    redis.call('ZREM', KEYS[1], ARGV[n])
    redis.call('ZREM', KEYS[2], ARGV[n])
  end
end
return 1
