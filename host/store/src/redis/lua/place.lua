-- Takes a place for a connection of a principal.
-- KEYS connections: a field a node
-- ARGV node, deadline, its connections with this one, most on all nodes, ms the counts are kept
-- Gives -1, or how many are taken when there is none left; -2 when nobody waits for it any more
if late(ARGV[2], now()) then
  return -2
end
return place(KEYS[1], ARGV[1], ARGV[3], ARGV[4], ARGV[5])
