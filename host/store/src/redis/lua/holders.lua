-- Who holds each of some sessions of one principal.
-- KEYS sessions
-- Gives for each its generation, the number of the last write, connection and node; '' for one that is not there or that nobody holds
local answer = {}
for _, key in ipairs(KEYS) do
  local is = redis.call('HMGET', key, 'gen', 'n', 'conn', 'node', 'until')
  local held = is[1] and not is[5]
  for n = 1, 4 do
    answer[#answer + 1] = held and is[n] or ''
  end
end
return answer
