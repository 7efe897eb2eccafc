-- KEYS any key of the server that is asked
-- Gives its clock, in microseconds
return int(micros())
