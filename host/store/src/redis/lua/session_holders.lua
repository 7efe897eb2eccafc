-- Who holds each of some sessions of one principal.
-- KEYS sessions
-- Returns for each its generation, the number of the last write, connection and node; four times '' if it
-- does not exist or nobody holds it.
local answer = {}
for _, key in ipairs(KEYS) do
  local record = redis.call('HMGET', key, 'gen', 'n', 'conn', 'node', 'until')
  local held = record[1] and not record[5]
  for n = 1, 4 do
    answer[#answer + 1] = held and record[n] or ''
  end
end
return answer
