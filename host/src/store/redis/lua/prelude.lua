-- Begins every script. Offsets and times are doubles here, exact up to 2^53, and are written without an exponent.
local function int(n)
  return string.format('%.0f', n)
end

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Drops the entries of a log from `oldest` and before. An entry's id is OFFSET-TIME.
local function trim(log, oldest)
  while true do
    local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 10)
    if #first == 0 then
      return
    end
    for n, entry in ipairs(first) do
      local time = tonumber(string.match(entry[1], '-(%d+)$'))
      if time > oldest then
        if n > 1 then
          redis.call('XTRIM', log, 'MINID', entry[1])
        end
        return
      end
    end
    local last = tonumber(string.match(first[#first][1], '^(%d+)'))
    redis.call('XTRIM', log, 'MINID', int(last + 1) .. '-0')
  end
end

