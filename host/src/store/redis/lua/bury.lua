-- Removes a session whose time is over.
-- KEYS session
local ends = redis.call('HGET', KEYS[1], '/until')
if ends and tonumber(ends) <= now() then
  redis.call('DEL', KEYS[1])
end
return 1
