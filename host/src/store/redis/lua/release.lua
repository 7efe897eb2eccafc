-- Puts another version of a plugin in charge, unless somebody else has done so since.
-- KEYS lineages, code that is held from now on, then code that goes
-- ARGV plugin, the generation that is followed, the next lineage, the code or nothing, epoch of a new registry
-- Gives 1; 0 when another generation has followed already
local is = redis.call('HGET', KEYS[1], ARGV[1])
local generation = is and cjson.decode(is).generation or 0
if int(generation) ~= ARGV[2] then
  return 0
end
if ARGV[4] ~= '' then
  redis.call('SET', KEYS[2], ARGV[4])
end
for n = 3, #KEYS do
  redis.call('DEL', KEYS[n])
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
revise(KEYS[1], ARGV[5])
return 1
