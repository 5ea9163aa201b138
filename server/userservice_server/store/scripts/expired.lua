#!lua flags=no-writes
--@include _time.lua
--@include _expiry.lua
--@constants MOST_SESSIONS
-- Returns the number of a user's sessions, followed by the ids of expired sessions that are not removed yet. Both are
-- read in one step, because the sweeper can remove sessions between two commands.
--
-- KEYS[1]  rows of the user's sessions
-- KEYS[2]  expiry of the user's sessions
local ended = ended_ids(KEYS[2], MOST_SESSIONS)
table.insert(ended, 1, redis.call('ZCARD', KEYS[1]))
return ended
