#!lua
-- Marks a store with several partitions as created, after all its partitions were created.
--
-- KEYS[1]  layout
--
-- ARGV[1]  store id
--
-- Returns:
--   1  the store with this id is created
--   0  this is another store
if redis.call('HGET', KEYS[1], 'store_id') ~= ARGV[1] then
  return 0
end
redis.call('HDEL', KEYS[1], 'creating')
return 1
