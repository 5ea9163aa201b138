#!lua flags=no-writes
--@constants STORE_CHANGED WATCH_DISABLED WATCH_TOKEN_EXPIRED USER_DELETED
-- Reads the entries of the feed after a position, and the users that they concern.
--
-- KEYS[1]  store id of the partition
-- KEYS[2]  layout of the partition
-- KEYS[3]  rows of the users
-- KEYS[4]  feed
--
-- ARGV[1]  expected store id
-- ARGV[2]  expected epoch
-- ARGV[3]  position: the id of an entry, which must exist
-- ARGV[4]  seen: the id of another entry that must exist, or the same id
-- ARGV[5]  maximum number of entries
-- ARGV[6]  bytes of users after which the reply ends
--
-- Returns:
--   {last, entries, users}  last: the id of the newest entry. entries: pairs of id and value. users: pairs of the id of
--                           a user and its record, or false if there is no such user
--   WATCH_DISABLED          the feed is off
--   WATCH_TOKEN_EXPIRED     the feed has another epoch, or one of the two entries does not exist (any more)
--   STORE_CHANGED           this is another store, or it has lost the feed
local call, rows, feed = redis.call, KEYS[3], KEYS[4]
local position, seen = ARGV[3], ARGV[4]

if call('GET', KEYS[1]) ~= ARGV[1] then
  return STORE_CHANGED
end
local epoch = call('HGET', KEYS[2], 'feed')
if not epoch then
  return WATCH_DISABLED
end
local found = call('XRANGE', feed, position, '+', 'COUNT', ARGV[5] + 1)
if epoch ~= ARGV[2] or not found[1] or found[1][1] ~= position then
  return WATCH_TOKEN_EXPIRED
end
if seen ~= position and #call('XRANGE', feed, seen, seen) == 0 then
  return WATCH_TOKEN_EXPIRED
end

local entries, users, is_read, bytes, room = {}, {}, {}, 0, tonumber(ARGV[6])
for number = 2, #found do
  local value = found[number][2][2]
  entries[#entries + 1] = found[number][1]
  entries[#entries + 1] = value
  -- A session is followed by its user; the id of a deleted user is in the entry.
  if value ~= '' and value:byte() ~= USER_DELETED then
    local id = struct.unpack('>I7', value, value:byte() > USER_DELETED and 9 or 2)
    if not is_read[id] then
      is_read[id] = true
      local id_text = string.format('%.0f', id)
      local record = call('ZRANGE', rows, id_text, id_text, 'BYSCORE')[1]
      users[#users + 1] = id_text
      users[#users + 1] = record or false
      bytes = bytes + (record and #record or 0)
      if bytes >= room then
        break
      end
    end
  end
end
return { call('XREVRANGE', feed, '+', '-', 'COUNT', 1)[1][1], entries, users }
