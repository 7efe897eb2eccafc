-- Replaces the record of which plugin governs which rooms, unless another change came first.
-- KEYS record; ARGV revision before this change, the new revision, the new record. Returns 1, or 0 if the
-- revision is another one.
if (redis.call('HGET', KEYS[1], 'revision') or '0') ~= ARGV[1] then
  return 0
end
redis.call('HSET', KEYS[1], 'revision', ARGV[2], 'record', ARGV[3])
return 1
