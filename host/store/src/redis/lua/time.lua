-- Returns the clock of a server in microseconds.
-- KEYS any key of that server
return int(micros())
