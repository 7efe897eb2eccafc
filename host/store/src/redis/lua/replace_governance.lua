-- Replaces the record of which plugin governs which rooms, unless another change came first.
-- KEYS record; ARGV the id of the record before this change, that of the new one, the new record. Returns 1, or 0 if
-- the record is another one.
if (redis.call('HGET', KEYS[1], 'id') or '0') ~= ARGV[1] then
  return 0
end
redis.call('HSET', KEYS[1], 'id', ARGV[2], 'record', ARGV[3])
return 1
