-- KEYS session
-- Gives the fields of a session whose time is over; when it will be, where it is not yet; nothing when it was resumed
local ends = redis.call('HGET', KEYS[1], '/until')
if not ends then
  return redis.call('EXISTS', KEYS[1]) == 0 and {} or false
end
if tonumber(ends) > now() then
  return ends
end
return redis.call('HKEYS', KEYS[1])
