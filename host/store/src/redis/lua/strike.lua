-- Takes sessions from the list of those that end, or nodes from that of the dead, each unless it was put there anew.
-- KEYS ends or dead
-- ARGV entry and score of each
for n = 1, #ARGV, 2 do
  local score = redis.call('ZSCORE', KEYS[1], ARGV[n])
  if score and int(score) == ARGV[n + 1] then
    redis.call('ZREM', KEYS[1], ARGV[n])
  end
end
return 1
