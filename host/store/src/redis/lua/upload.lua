-- Puts a piece of a plugin's code behind those that are there. All who have the code put it in one place, and go on from one another.
-- KEYS where the code is put for a while
-- ARGV bytes before this piece, the piece, ms that it is kept
-- Gives how many bytes are there now
local length = redis.call('STRLEN', KEYS[1])
if length == tonumber(ARGV[1]) then
  length = redis.call('APPEND', KEYS[1], ARGV[2])
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return length
