-- KEYS members
-- ARGV principals at most
-- Gives sessions, whether there are more principals, principals. An entry is PRINCIPAL and SESSION with a space, which is
-- less than any letter of a principal's name: the next principal is found by leaping over the sessions of this one.
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
