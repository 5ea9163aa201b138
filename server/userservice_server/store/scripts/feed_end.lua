#!lua flags=no-writes
--@constants STORE_CHANGED WATCH_DISABLED
-- Returns the epoch of the feed, and the id of its newest entry.
--
-- KEYS[1]  store id of the partition
-- KEYS[2]  layout of the partition
-- KEYS[3]  feed
--
-- ARGV[1]  expected store id
--
-- Returns:
--   {epoch, id}     the feed is on
--   WATCH_DISABLED  the feed is off
--   STORE_CHANGED   this is another store, or it has lost the feed
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return STORE_CHANGED
end
local epoch = redis.call('HGET', KEYS[2], 'feed')
if not epoch then
  return WATCH_DISABLED
end
local last = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)[1]
return last and { epoch, last[1] } or STORE_CHANGED
