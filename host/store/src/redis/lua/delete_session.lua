-- Deletes a session that has ended, if nobody has written to it since.
-- KEYS session
-- ARGV generation, number of the last write
local record = redis.call('HMGET', KEYS[1], 'gen', 'n', 'until')
if record[1] == ARGV[1] and record[2] == ARGV[2] and record[3] == '0' then
  redis.call('DEL', KEYS[1])
end
return 1
