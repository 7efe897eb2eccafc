-- Activates another version of a plugin, unless another change came first.
-- KEYS histories, the code that is kept from now on, where that was uploaded, then code to delete
-- ARGV plugin, generation before this change, the new history, bytes of the uploaded code or 0, epoch of a
-- new registry
-- Returns 1; 0 if the generation is another one; 2 if the uploaded code is not there.
if int(stored_generation(KEYS[1], ARGV[1])) ~= ARGV[2] then
  redis.call('DEL', KEYS[3])
  return 0
end
if ARGV[4] ~= '0' and not keep_code(KEYS[2], KEYS[3], ARGV[4]) then
  return 2
end
for n = 3, #KEYS do
  redis.call('DEL', KEYS[n])
end
write_history(KEYS[1], ARGV[1], ARGV[3], ARGV[5])
return 1
