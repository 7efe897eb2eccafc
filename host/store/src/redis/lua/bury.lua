-- Removes a session that was ended, if nobody wrote to it since.
-- KEYS session
-- ARGV generation, number of the last write
local is = redis.call('HMGET', KEYS[1], 'gen', 'n', 'until')
if is[1] == ARGV[1] and is[2] == ARGV[2] and is[3] == '0' then
  redis.call('DEL', KEYS[1])
end
return 1
