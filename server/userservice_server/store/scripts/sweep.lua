#!lua flags=allow-oom
--@include _store.lua
--@include _sessions.lua
--@include _time.lua
--@include _expiry.lua
--@include _ids.lua
--@include _feed.lua
--@include _ended.lua
-- Removes expired sessions: a step of the sweeper.
--
-- KEYS[1]   store id of the partition
-- KEYS[2]   layout
-- KEYS[3]   rows of the users
-- KEYS[4]   index of the users
-- KEYS[5]   session count
-- KEYS[6]   expiry queue
-- KEYS[7…]  for each user: rows, index and expiry of the user's sessions
-- then      feed of the partition
--
-- ARGV[1]   expected store id
-- ARGV[2]   maximum number of sessions to remove
-- ARGV[3…]  for each user: user_id and id, as read from the expiry queue. The user may have been deleted since.
--
-- Returns the number of removed sessions; -1 if this is another store, or it has lost keys.
local queue, count_key, room = KEYS[6], KEYS[5], tonumber(ARGV[2])
local FIRST_TABLE, TABLE_KEYS, FIRST_USER = 7, 3, 3

-- Removes expired sessions of one user, and writes the next expiry of the user's sessions into the queue.
local function sweep(rows, index, expiry_key, id)
  local ended, changes = ended_ids(expiry_key, room), {}
  for _, session in ipairs(ended) do
    changes[#changes + 1] = expired_change(rows, session, id)
  end
  append_changes(changes)
  count_sessions(count_key, id, 'removed', #ended)
  for _, session in ipairs(ended) do
    remove_ended(rows, index, expiry_key, session)
  end
  room = room - #ended
  local next_end = redis.call('ZRANGE', expiry_key, 0, 0, 'WITHSCORES')[2]
  if next_end then
    redis.call('ZADD', queue, next_end, id)
  else
    redis.call('ZREM', queue, id)
  end
end

if is_changed_store(KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1]) then
  return -1
end
local most, argument = room, FIRST_USER
for position = FIRST_TABLE, #KEYS - 1, TABLE_KEYS do
  local user_id, id = ARGV[argument], ARGV[argument + 1]
  argument = argument + 2
  if redis.call('HGET', KEYS[4], user_id) ~= id then
    redis.call('ZREM', queue, id)
  elseif room > 0 then
    sweep(KEYS[position], KEYS[position + 1], KEYS[position + 2], id)
  end
end
return most - room
