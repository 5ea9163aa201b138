#!lua flags=allow-oom
--@constants STORE_CHANGED PARTITIONS
-- Raises the last id of a partition, so that the partition assigns only ids above a given id from now on. The clocks of
-- the nodes of a cluster differ, and a cursor that was returned as the end of a list must stay behind all later ids.
-- Allowed if memory is full: the value is replaced by one of the same size.
--
-- KEYS[1]  store id of the partition
-- KEYS[2]  last id of the partition
--
-- ARGV[1]  expected store id
-- ARGV[2]  an id that another partition has assigned
-- ARGV[3]  number of the partition
--
-- Returns:
--   1              the last id was raised
--   0              the next id is above the given id anyway; nothing was written
--   STORE_CHANGED  this is another store, or it has lost keys
local last = tonumber(redis.call('GET', KEYS[2]) or '')
if redis.call('GET', KEYS[1]) ~= ARGV[1] or not last then
  return STORE_CHANGED
end
-- The low bits of all ids of a partition are its number; the next id is larger by PARTITIONS.
local raised = math.floor(tonumber(ARGV[2]) / PARTITIONS) * PARTITIONS + tonumber(ARGV[3])
if last >= raised then
  return 0
end
redis.call('SET', KEYS[2], string.format('%.0f', raised))
return 1
