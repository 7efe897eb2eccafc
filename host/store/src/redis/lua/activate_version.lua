-- Activates another version of a plugin, unless another change came first.
-- KEYS histories, the code that is kept from now on, where that was uploaded, then code to delete
-- ARGV plugin, generation before this change, the new history, bytes of the uploaded code or 0, epoch of a
-- new registry
-- Returns 1; 0 if the generation is another one; 2 if the uploaded code is not there.
local stored = redis.call('HGET', KEYS[1], ARGV[1])
local generation = stored and cjson.decode(stored).generation or 0
if int(generation) ~= ARGV[2] then
  redis.call('DEL', KEYS[3])
  return 0
end
if ARGV[4] ~= '0' and redis.call('EXISTS', KEYS[2]) == 0 then
  if redis.call('STRLEN', KEYS[3]) ~= tonumber(ARGV[4]) then
    return 2
  end
  redis.call('RENAME', KEYS[3], KEYS[2])
  redis.call('PERSIST', KEYS[2])
end
for n = 3, #KEYS do
  redis.call('DEL', KEYS[n])
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
revise(KEYS[1], ARGV[5])
return 1
