-- Ends a session whose time is over.
-- KEYS session
-- ARGV cluster time
-- Gives live for one that is held or not there; later and when; or ended, the time, generation, number, then rooms and places
local is = redis.call('HMGET', KEYS[1], 'gen', 'n', 'until')
if not is[1] or not is[3] then
  return { 'live' }
end
-- From here on it is over by the word of the record, whatever time it is to others.
if tonumber(is[3]) > tonumber(ARGV[1]) then
  return { 'later', is[3] }
end
redis.call('HSET', KEYS[1], 'until', '0')
return places(KEYS[1], { 'ended', int(now()), is[1], is[2] })
