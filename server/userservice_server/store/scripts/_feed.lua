--@constants FEED_TRIM_INTERVAL
-- Appends changes to the feed of a partition, if the feed is on. Shared by the scripts that write; needs _ids.lua
-- and _time.lua. wire/changes.py describes entries. The last key of each of these scripts is the feed, KEYS[2] the layout.

-- Returns the value of an entry. `owner_id` is nil for users; `key` is nil if the record exists.
local function change_of(kind, id, owner_id, key)
  local owner = owner_id and struct.pack('>I7', owner_id) or ''
  return string.char(kind) .. struct.pack('>I7', id) .. owner .. (key or '')
end

-- Returns whether the feed is on.
local function has_feed()
  return redis.call('HEXISTS', KEYS[2], 'feed') == 1
end

-- Returns the position after the last entry: the time in microseconds, and the number.
local function next_position(feed, now)
  local last = redis.call('XREVRANGE', feed, '+', '-', 'COUNT', 1)[1]
  if not last then
    return now, id_of_now() -- the feed was lost: its new numbers are larger than all old ones, so readers find a gap
  end
  local time, number = last[1]:match('^(%d+)-(%d+)$')
  return math.max(tonumber(time), now), number + 1
end

-- Removes old entries. Whole nodes of the stream are removed, so some entries stay longer.
local function trim_feed(feed, now, most_entries, seconds)
  redis.call('XTRIM', feed, 'MAXLEN', '~', most_entries)
  redis.call('XTRIM', feed, 'MINID', '~', string.format('%.0f', now - seconds * MICROSECONDS_A_SECOND))
end

-- Appends entries. Must be called before the script writes anything else: if the user of the connection may not run a
-- command, or the key has another type, the script ends here and has changed nothing.
local function append_changes(changes)
  local feed = KEYS[#KEYS]
  local settings = redis.call('HMGET', KEYS[2], 'feed', 'feed_entries', 'feed_seconds')
  if not settings[1] or #changes == 0 then
    return
  end
  local now = present_time()
  local time, number = next_position(feed, now)
  local trims = false
  for position = 1, #changes do
    redis.call('XADD', feed, string.format('%.0f-%.0f', time, number), 'c', changes[position])
    trims = trims or number % FEED_TRIM_INTERVAL == 0
    number = number + 1
  end
  if trims then
    trim_feed(feed, now, settings[2], settings[3])
  end
  redis.pcall('SPUBLISH', feed, '') -- only shortens the wait of readers, which also read at intervals
end
