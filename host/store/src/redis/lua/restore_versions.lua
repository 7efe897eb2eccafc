-- Writes the versions of a plugin again if those that are there are older, and the code of one of them if it
-- is missing.
-- KEYS histories; then, if there is code, its key and where it was uploaded
-- ARGV plugin, generation, history, epoch of a new registry, bytes of the code
-- Returns 1; 2 if the uploaded code is not there.
local stored, generation = stored_generation(KEYS[1], ARGV[1]), tonumber(ARGV[2])
if stored <= generation and KEYS[2] and not keep_code(KEYS[2], KEYS[3], ARGV[5]) then
  return 2
end
if stored < generation then
  write_history(KEYS[1], ARGV[1], ARGV[3], ARGV[4])
end
if KEYS[3] then
  redis.call('DEL', KEYS[3])
end
return 1
