-- Puts a piece of a plugin's code behind those that are there.
-- KEYS where the code is put for a while
-- ARGV bytes before this piece, the piece, ms that it is kept
-- Gives 1; 0 when not all of what comes before is there
if redis.call('STRLEN', KEYS[1]) ~= tonumber(ARGV[1]) then
  return 0
end
redis.call('APPEND', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
