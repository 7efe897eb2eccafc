-- Replaces the record of which plugin governs which rooms, unless another change came first.
-- KEYS record; ARGV revision before this change, the new record. Returns 1, or 0 if the revision is another one.
local stored = redis.call('GET', KEYS[1])
local revision = stored and cjson.decode(stored).revision or 0
if int(revision) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2])
return 1
