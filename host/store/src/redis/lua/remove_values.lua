-- Removes all shared values of a plugin.
-- KEYS state, values, versions, deletions, expiries
-- Returns how many values there were, and how many bytes they took.
local count = redis.call('HLEN', KEYS[2])
local bytes = tonumber(redis.call('HGET', KEYS[1], 'bytes') or '0')
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5])
return { count, int(bytes) }
