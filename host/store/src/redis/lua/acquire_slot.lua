-- Acquires a slot for a connection of a principal.
-- KEYS connections: a hash with a field for each node
-- ARGV node, deadline, its connections including this one, maximum on all nodes, ms to keep the counts
-- Returns -1; the number of connections if there is no slot left; or -2 after the deadline: nobody waits for
-- the slot.
if late(ARGV[2], now()) then
  return -2
end
return acquire_slot(KEYS[1], ARGV[1], ARGV[3], ARGV[4], ARGV[5])
