-- Writes the versions of a plugin again where what is there is older, and the code of one of them where that is missing.
-- KEYS lineages, then, where there is code, its key and where it was put
-- ARGV plugin, generation, lineage, epoch of a new registry, bytes of the code
-- Gives 1; 2 when the code that was put is not there
local is = redis.call('HGET', KEYS[1], ARGV[1])
local generation = is and cjson.decode(is).generation or 0
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
