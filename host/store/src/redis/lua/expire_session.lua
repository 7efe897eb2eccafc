-- Ends a session whose time is over. Its record stays.
-- KEYS session
-- ARGV cluster time
-- Returns live if a connection holds it or it does not exist; later and when it ends; or ended, the time,
-- generation, number of the last write, then rooms and memberships.
local record = redis.call('HMGET', KEYS[1], 'gen', 'n', 'until')
if not record[1] or not record[3] then
  return { 'live' }
end
-- From here on the record itself says that it is over, whatever time it is on other nodes.
if tonumber(record[3]) > tonumber(ARGV[1]) then
  return { 'later', record[3] }
end
redis.call('HSET', KEYS[1], 'until', '0')
return append_memberships(KEYS[1], { 'ended', int(now()), record[1], record[2] })
