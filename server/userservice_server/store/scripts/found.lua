#!lua
--@include _ids.lua
-- Creates the layout of a store with several partitions, if it does not exist. Its field `creating` remains until all
-- partitions have been created.
--
-- KEYS[1]  layout
--
-- ARGV[1]  version of the layout
-- ARGV[2]  number of partitions
-- ARGV[3]  a random store id
-- ARGV[4]  version of Unicode for the e-mail index
--
-- Returns:
--   a list: store id, lowest id that the store assigns, number of partitions
--   0        the store would assign ids above MAX_ID; nothing was written
local layout = KEYS[1]

if redis.call('EXISTS', layout) == 0 then
  local first = id_of_now()
  if first + PARTITIONS * 2 > MAX_ID then
    return 0
  end
  local lowest = string.format('%.0f', first + PARTITIONS)
  redis.call('HSET', layout, 'version', ARGV[1], 'partitions', ARGV[2], 'store_id', ARGV[3], 'lowest_id', lowest)
  redis.call('HSET', layout, 'email_index', 'complete', 'email_unicode', ARGV[4], 'creating', '1')
end
return redis.call('HMGET', layout, 'store_id', 'lowest_id', 'partitions')
