-- Puts another version of a plugin in charge, unless somebody else has done so since.
-- KEYS lineages, code that is held from now on, where that was put, then code that goes
-- ARGV plugin, the generation that is followed, the next lineage, bytes of the code that was put or 0, epoch of a new registry
-- Gives 1; 0 when another generation has followed already; 2 when the code that was put is not there
local is = redis.call('HGET', KEYS[1], ARGV[1])
local generation = is and cjson.decode(is).generation or 0
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
