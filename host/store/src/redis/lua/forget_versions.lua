-- Deletes the versions of a plugin and their code, unless another change came first.
-- KEYS histories, then code to delete
-- ARGV plugin, generation before this change, epoch of a new registry
-- Returns 1, or 0 if the generation is another one.
if int(stored_generation(KEYS[1], ARGV[1])) ~= ARGV[2] then
  return 0
end
redis.call('HDEL', KEYS[1], ARGV[1])
for n = 2, #KEYS do
  redis.call('DEL', KEYS[n])
end
revise(KEYS[1], ARGV[3])
return 1
