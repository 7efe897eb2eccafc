-- Writes the versions of a plugin again where what is there is older, and code that is missing.
-- KEYS lineages, then code of versions
-- ARGV plugin, generation, lineage, epoch of a new registry, then the code of each
-- Gives 1
local is = redis.call('HGET', KEYS[1], ARGV[1])
local generation = is and cjson.decode(is).generation or 0
if generation > tonumber(ARGV[2]) then
  return 1
end
for n = 2, #KEYS do
  if redis.call('EXISTS', KEYS[n]) == 0 then
    redis.call('SET', KEYS[n], ARGV[n + 3])
  end
end
if generation < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
  revise(KEYS[1], ARGV[4])
end
return 1
