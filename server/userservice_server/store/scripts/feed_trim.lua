#!lua flags=allow-oom
--@include _ids.lua
--@include _time.lua
--@include _feed.lua
--@constants FEED_TRIM_LIMIT
-- Removes the entries of the feed that are too old. Writes remove old entries too, but a partition may have no writes.
-- The feed keeps one entry, from which its numbers continue: if the newest entry is half as old as an entry may be, an
-- empty entry is added.
--
-- KEYS[1]  store id of the partition
-- KEYS[2]  layout of the partition
-- KEYS[3]  feed
--
-- ARGV[1]  expected store id
--
-- Returns the number of removed entries.
local feed = KEYS[3]
local settings = redis.call('HMGET', KEYS[2], 'feed', 'feed_seconds')
if redis.call('GET', KEYS[1]) ~= ARGV[1] or not settings[1] then
  return 0
end
local now, oldest = present_time(), settings[2] * MICROSECONDS_A_SECOND
local last = redis.call('XREVRANGE', feed, '+', '-', 'COUNT', 1)[1]
if not last or tonumber(last[1]:match('^%d+')) < now - oldest / 2 then
  append_changes({ '' })
end
local minimum = string.format('%.0f', now - oldest)
local removed = redis.call('XTRIM', feed, 'MINID', '~', minimum, 'LIMIT', FEED_TRIM_LIMIT)
if removed < FEED_TRIM_LIMIT then
  removed = removed + redis.call('XTRIM', feed, 'MINID', minimum)
end
return removed
