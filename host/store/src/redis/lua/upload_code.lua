-- Appends a piece to the code of a plugin that is being uploaded. All nodes that have the code upload it to
-- the same key, and continue for one another.
-- KEYS where the code is for a while
-- ARGV bytes before this piece, the piece, ms to keep it
-- Returns how many bytes there are now.
local length = redis.call('STRLEN', KEYS[1])
if length == tonumber(ARGV[1]) then
  length = redis.call('APPEND', KEYS[1], ARGV[2])
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return length
