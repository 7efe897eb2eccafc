-- The start of every script. Offsets and times are doubles here, exact up to 2^53, and must be written without
-- an exponent.
local function int(n)
  return string.format('%.0f', n)
end

local function micros()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function now()
  return math.floor(micros() / 1000)
end

-- Whether a write arrives after its deadline. No node sets a deadline more than 5 s ahead: if one is, the clock
-- was set back since the node read it, and nobody can tell how long the write was on its way.
local function late(deadline, time)
  local left = tonumber(deadline) - time
  return left < 0 or left > 5000
end

-- Drops entries of a log, the oldest first, up to the first one that stays. Returns that one, or nothing if
-- none stays. The id of an entry is OFFSET-TIME.
local function drop_until(log, stays)
  while true do
    local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 10)
    if #first == 0 then
      return nil
    end
    for n, entry in ipairs(first) do
      if stays(entry) then
        if n > 1 then
          redis.call('XTRIM', log, 'MINID', entry[1])
        end
        return entry
      end
    end
    local last = tonumber(string.match(first[#first][1], '^(%d+)'))
    redis.call('XTRIM', log, 'MINID', int(last + 1) .. '-0')
  end
end

-- Drops the entries of a log up to the time `oldest`.
local function trim(log, oldest)
  drop_until(log, function(entry)
    return tonumber(string.match(entry[1], '-(%d+)$')) > oldest
  end)
end

-- Appends the rooms and memberships of a session to `answer`.
local function append_memberships(session, answer)
  local fields = redis.call('HGETALL', session)
  for n = 1, #fields, 2 do
    if string.sub(fields[n], 1, 1) == '/' then
      answer[#answer + 1] = string.sub(fields[n], 2)
      answer[#answer + 1] = fields[n + 1]
    end
  end
  return answer
end

-- Gives a session the rooms and memberships in the arguments from number `from` on, and no others. Other
-- rooms of the session are left now, and are appended to `answer`. A room without a membership is removed.
local function replace(session, from, answer)
  local named = {}
  for n = from, #ARGV, 2 do
    local field = '/' .. ARGV[n]
    named[field] = true
    if ARGV[n + 1] ~= '' then
      redis.call('HSET', session, field, ARGV[n + 1])
    else
      redis.call('HDEL', session, field)
    end
  end
  for _, field in ipairs(redis.call('HKEYS', session)) do
    if string.sub(field, 1, 1) == '/' and not named[field] then
      redis.call('HSET', session, field, 'left')
      answer[#answer + 1] = string.sub(field, 2)
    end
  end
  return answer
end

-- Counts the connections of a principal on other nodes than `node`. Returns their number, and how many the
-- node itself has according to Redis.
local function count_connections(connections, node)
  local others, is_own, before = 0, false, 0
  for n, value in ipairs(redis.call('HGETALL', connections)) do
    if n % 2 == 1 then
      is_own = value == node
    elseif is_own then
      before = tonumber(value)
    else
      others = others + value
    end
  end
  return others, before
end

-- Acquires a slot for a connection of a principal on a node that has `own` connections including this one, if there
-- are at most `max_connections` on all nodes. Returns -1, or the number of connections if there is no slot.
local function acquire_slot(connections, node, own, max_connections, keep)
  local others, before = count_connections(connections, node)
  if others + own > tonumber(max_connections) then
    return others + own - 1
  end
  redis.call('HSET', connections, node, int(math.max(own, before)))
  redis.call('PEXPIRE', connections, keep)
  return -1
end

-- Resets what members have acknowledged, because it was in another epoch.
local function unacknowledge(acks)
  if redis.call('EXISTS', acks) == 1 then
    local ttl = redis.call('PTTL', acks)
    redis.call('ZUNIONSTORE', acks, 1, acks, 'WEIGHTS', 0)
    if ttl > 0 then
      redis.call('PEXPIRE', acks, ttl)
    end
  end
end

-- Writes the revision of a registry that changes, in a field of its own: the epoch in which it began, which is
-- `begins` for a new one, and a number higher than `least` and than all before. Returns the number.
local function revise(registry, begins, least)
  local epoch, number = string.match(redis.call('HGET', registry, '/revision') or '', '^(%S+) (%d+)$')
  number = math.max(tonumber(number or '0'), least or 0, now() - 1) + 1
  redis.call('HSET', registry, '/revision', (epoch or begins) .. ' ' .. int(number))
  return number
end

-- The generation of the stored versions of a plugin, which is 0 if there are none.
local function stored_generation(histories, plugin)
  local stored = redis.call('HGET', histories, plugin)
  return stored and cjson.decode(stored).generation or 0
end

-- Keeps the code of a plugin that was uploaded, unless it is there already. Returns whether it is there: an
-- upload that has not this many bytes is not complete.
local function keep_code(code, upload, bytes)
  if redis.call('EXISTS', code) == 1 then
    return true
  end
  if redis.call('STRLEN', upload) ~= tonumber(bytes) then
    return false
  end
  redis.call('RENAME', upload, code)
  redis.call('PERSIST', code)
  return true
end

-- Writes the versions of a plugin. `begins` is the epoch of a new registry.
local function write_history(histories, plugin, history, begins)
  redis.call('HSET', histories, plugin, history)
  revise(histories, begins)
end
