#!lua flags=no-writes
--@include _outcome.lua
-- Reads the record of a name.
-- KEYS: rows, index, index of the owner
-- ARGV: name, owner (empty: these records have none)
local id = redis.call('HGET', KEYS[2], ARGV[1])
if not id then
  return missing(KEYS[3], ARGV[2])
end
return 'K' .. redis.call('ZRANGE', KEYS[1], id, id, 'BYSCORE')[1]
