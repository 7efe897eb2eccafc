-- Removes entries from a list, each unless its score has changed.
-- KEYS list: a sorted set, of sessions that end or of dead nodes
-- ARGV entry and score of each
for n = 1, #ARGV, 2 do
  local score = redis.call('ZSCORE', KEYS[1], ARGV[n])
  if score and int(score) == ARGV[n + 1] then
    redis.call('ZREM', KEYS[1], ARGV[n])
  end
end
return 1
