#!lua
--@include _ids.lua
--@include _time.lua
--@include _feed.lua
--@constants STORE_CHANGED
-- Turns the feed of a partition on, or changes its limits. A new epoch starts with an empty feed.
--
-- KEYS[1]  store id of the partition
-- KEYS[2]  layout of the partition
-- KEYS[3]  feed
--
-- ARGV[1]  expected store id
-- ARGV[2]  epoch
-- ARGV[3]  maximum number of entries
-- ARGV[4]  seconds after which entries are removed
--
-- Returns:
--   1              a new epoch has started
--   0              only the limits were changed
--   STORE_CHANGED  this is another store; nothing was written
local layout, feed, epoch = KEYS[2], KEYS[3], ARGV[2]

if redis.call('GET', KEYS[1]) ~= ARGV[1] or redis.call('EXISTS', layout) == 0 then
  return STORE_CHANGED
end
local is_new = redis.call('HGET', layout, 'feed') ~= epoch
if is_new then
  local time, number = next_position(feed, present_time())
  redis.call('UNLINK', feed)
  redis.call('XADD', feed, string.format('%.0f-%.0f', time, math.max(number, id_of_now())), 'c', '')
end
redis.call('HSET', layout, 'feed', epoch, 'feed_entries', ARGV[3], 'feed_seconds', ARGV[4])
redis.call('SPUBLISH', feed, '')
return is_new and 1 or 0
