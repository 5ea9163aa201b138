#!lua
--@include _ids.lua
-- Creates a partition of a store that is being created, if the partition is empty.
--
-- KEYS[1]  layout of the partition
-- KEYS[2]  store id
-- KEYS[3]  rows
-- KEYS[4]  index
-- KEYS[5]  last id
-- KEYS[6]  session count
--
-- ARGV[1]  version of the layout
-- ARGV[2]  number of partitions
-- ARGV[3]  store id of the store
-- ARGV[4]  lowest id that the store assigns
-- ARGV[5]  number of the partition
-- ARGV[6]  version of Unicode for the e-mail index
--
-- Returns:
--   1  the partition was created
--   0  the partition is not empty; nothing was written
if redis.call('EXISTS', unpack(KEYS, 1, 5)) > 0 then
  return 0
end
-- The clocks of the nodes differ, and no id may be below the lowest id of the store.
local first = math.max(id_of_now(), tonumber(ARGV[4]) - PARTITIONS)
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'partitions', ARGV[2], 'store_id', ARGV[3])
redis.call('HSET', KEYS[1], 'email_index', 'complete', 'email_unicode', ARGV[6])
redis.call('SET', KEYS[2], ARGV[3])
redis.call('SET', KEYS[5], string.format('%.0f', first + tonumber(ARGV[5])))
redis.call('HSET', KEYS[6], 'covered', string.format('%.0f', MAX_ID), 'added', 0, 'removed', 0)
return 1
