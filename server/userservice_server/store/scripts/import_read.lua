#!lua flags=no-writes
--@include _import.lua
--@constants NOT_FOUND STORE_CHANGED
-- Reads the state and the row errors of an import in a partition.
--
-- KEYS[1]  store id of the partition
-- KEYS[2]  state of the import
-- KEYS[3]  row errors of the import
--
-- ARGV[1]  expected store id
-- ARGV[2]  the lowest index of the row errors
-- ARGV[3]  maximum number of row errors
--
-- Returns:
--   {numbers of the state, row errors with their indexes}  the row errors are framed, each is followed by its index
--   NOT_FOUND      there is no import with this import_id
--   STORE_CHANGED  this is another store
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return STORE_CHANGED
end
local state = redis.call('GET', KEYS[2])
if not state then
  return NOT_FOUND
end
local numbers = parsed_state(state)
return { numbers, redis.call('ZRANGE', KEYS[3], ARGV[2], '+inf', 'BYSCORE', 'LIMIT', 0, ARGV[3], 'WITHSCORES') }
