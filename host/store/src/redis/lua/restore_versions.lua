-- Writes the versions of a plugin again if those that are there are older, and the code of one of them if it
-- is missing.
-- KEYS histories; then, if there is code, its key and where it was uploaded
-- ARGV plugin, generation, history, epoch of a new registry, bytes of the code
-- Returns 1; 2 if the uploaded code is not there.
local stored = redis.call('HGET', KEYS[1], ARGV[1])
local generation = stored and cjson.decode(stored).generation or 0
if generation <= tonumber(ARGV[2]) then
  if KEYS[2] and redis.call('EXISTS', KEYS[2]) == 0 then
    if redis.call('STRLEN', KEYS[3]) ~= tonumber(ARGV[5]) then
      return 2
    end
    redis.call('RENAME', KEYS[3], KEYS[2])
    redis.call('PERSIST', KEYS[2])
  end
  if generation < tonumber(ARGV[2]) then
    redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
    revise(KEYS[1], ARGV[4])
  end
end
if KEYS[3] then
  redis.call('DEL', KEYS[3])
end
return 1
