#!lua flags=no-writes
--@include _outcome.lua
-- Reads the record of a name.
-- KEYS: rows, index, index of the owner
-- ARGV: name, owner (empty: these records have none)
local id = redis.call('HGET', KEYS[2], ARGV[1])
if not id then
  return missing(KEYS[3], ARGV[2])
end
local record = redis.call('ZRANGE', KEYS[1], id, id, 'BYSCORE')[1]
if not record then
  return 'S' -- the index has it and the rows do not: the store has lost data
end
return 'K' .. record
