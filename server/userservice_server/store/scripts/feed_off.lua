#!lua flags=allow-oom
--@constants STORE_CHANGED
-- Turns the feed of a partition off, and removes its entries.
--
-- KEYS[1]  store id of the partition
-- KEYS[2]  layout of the partition
-- KEYS[3]  feed
--
-- ARGV[1]  expected store id
--
-- Returns:
--   1              the feed is off
--   STORE_CHANGED  this is another store; nothing was written
if redis.call('GET', KEYS[1]) ~= ARGV[1] or redis.call('EXISTS', KEYS[2]) == 0 then
  return STORE_CHANGED
end
redis.call('HDEL', KEYS[2], 'feed', 'feed_entries', 'feed_seconds')
redis.call('UNLINK', KEYS[3])
redis.pcall('SPUBLISH', KEYS[3], '')
return 1
