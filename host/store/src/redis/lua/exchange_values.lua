-- Writes changes of a plugin's shared values, and returns the changes that a node does not know.
-- KEYS state: epoch, newest version, bytes, and up to which version deletions are forgotten; values by key;
-- sorted sets by key: the version of each value, the version of each deletion, when each value expires
-- ARGV epoch if there is none, epoch of the node, version up to which it has read, version up to which it knows
-- all deletions, most bytes; then for each change its key, principal, ms to live (0: for ever), 1 or 0 if it is
-- deleted, and data
-- Returns the epoch, 1 if the node must drop what it has, the two versions from which it goes on, 1 if there is
-- more to read, then for each change the same as in ARGV
local state, values, versions, deletions, expiries = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local entry_bytes, max_deletions, max_step, max_page, max_page_bytes = 300, 4096, 1000, 256, 524288
local time = now()
local epoch = redis.call('HGET', state, 'epoch')
if not epoch then
  epoch = ARGV[1]
  redis.call('HSET', state, 'epoch', epoch)
end
local function stored(field)
  return tonumber(redis.call('HGET', state, field) or '0')
end
local version, bytes, forgotten = stored('version'), stored('bytes'), stored('forgotten')
local is_changed = false

local function forget(key)
  local record = redis.call('HGET', values, key)
  if record then
    bytes, is_changed = bytes - entry_bytes - #key - #record, true
    redis.call('HDEL', values, key)
    redis.call('ZREM', versions, key)
    redis.call('ZREM', expiries, key)
  end
end

local function delete(key)
  forget(key)
  version, is_changed = version + 1, true
  redis.call('ZADD', deletions, int(version), key)
end

for _, key in ipairs(redis.call('ZRANGEBYSCORE', expiries, '-inf', int(time), 'LIMIT', 0, max_step)) do
  delete(key)
end
-- What this node writes need not be told to it.
local before = version
for n = 6, #ARGV, 5 do
  local key, ttl = ARGV[n], tonumber(ARGV[n + 2])
  if ARGV[n + 3] == '1' then
    forget(key)
    redis.call('ZREM', deletions, key)
    version, is_changed = version + 1, true
    local expires = ttl > 0 and int(time + ttl) or '0'
    local record = expires .. ' ' .. ARGV[n + 1] .. ' ' .. ARGV[n + 4]
    redis.call('HSET', values, key, record)
    redis.call('ZADD', versions, int(version), key)
    if ttl > 0 then
      redis.call('ZADD', expiries, expires, key)
    end
    bytes = bytes + entry_bytes + #key + #record
  else
    delete(key)
  end
end
-- A node that lacks one of these does not notice; one that has an older value of the key must not keep it.
for _ = 1, max_step do
  if bytes <= tonumber(ARGV[5]) then
    break
  end
  local first = redis.call('ZRANGE', versions, 0, 0, 'WITHSCORES')
  if #first == 0 then
    break
  end
  forgotten = math.max(forgotten, tonumber(first[2]))
  forget(first[1])
end
local excess = redis.call('ZCARD', deletions) - max_deletions
if excess > 0 then
  local last = redis.call('ZRANGE', deletions, excess - 1, excess - 1, 'WITHSCORES')
  forgotten, is_changed = math.max(forgotten, tonumber(last[2])), true
  redis.call('ZREMRANGEBYRANK', deletions, 0, excess - 1)
end
if is_changed then
  redis.call('HSET', state, 'version', int(version), 'bytes', int(bytes), 'forgotten', int(forgotten))
end

local read, learned, restart = tonumber(ARGV[3]), tonumber(ARGV[4]), 0
if ARGV[2] ~= epoch then
  -- All values were lost, or the node has none. It keeps what it has.
  read, learned = 0, before
elseif learned < forgotten then
  read, learned, restart = 0, before, 1
end
local found = {}
for _, set in ipairs({ versions, deletions }) do
  local entries =
    redis.call('ZRANGEBYSCORE', set, '(' .. int(read), int(before), 'WITHSCORES', 'LIMIT', 0, max_page + 1)
  for n = 1, #entries, 2 do
    found[#found + 1] = { entries[n], tonumber(entries[n + 1]) }
  end
end
table.sort(found, function(one, other)
  return one[2] < other[2]
end)
local answer, size, more = {}, 0, 0
for n, change in ipairs(found) do
  if n > max_page or size > max_page_bytes then
    more = 1
    break
  end
  local key, record = change[1], redis.call('HGET', values, change[1])
  local expires, principal, data = string.match(record or '', '^(%d+) (%S*) (.*)$')
  local left = (tonumber(expires) or 0) - time
  local is_value = expires and (expires == '0' or left > 0)
  answer[#answer + 1] = key
  answer[#answer + 1] = principal or ''
  answer[#answer + 1] = is_value and expires ~= '0' and int(left) or '0'
  answer[#answer + 1] = is_value and '1' or '0'
  answer[#answer + 1] = is_value and data or ''
  read, size = change[2], size + #key + #(record or '')
end
if more == 0 then
  read = version
end
return { epoch, restart, int(read), int(math.max(read, learned)), more, unpack(answer) }
