-- Lists members of a room.
-- KEYS members
-- ARGV maximum of principals
-- Returns the number of sessions, whether there are more principals, and principals. An entry is PRINCIPAL
-- and SESSION with a space between them. The space sorts before any character of a principal's name, so the
-- next principal is found by skipping the sessions of this one.
local found, more, from = {}, 0, '-'
while true do
  local entry = redis.call('ZRANGEBYLEX', KEYS[1], from, '+', 'LIMIT', 0, 1)[1]
  if not entry then
    break
  end
  if #found == tonumber(ARGV[1]) then
    more = 1
    break
  end
  found[#found + 1] = string.match(entry, '^(%S+) ')
  from = '[' .. found[#found] .. '!'
end
return { redis.call('ZCARD', KEYS[1]), more, found }
