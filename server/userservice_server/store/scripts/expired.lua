#!lua flags=no-writes
--@include _expiry.lua
--@constants MOST_SESSIONS
-- Returns the ids of a user's sessions that have ended and are not removed yet.
--
-- KEYS[1]  expiry of the user's sessions
return ended_ids(KEYS[1], MOST_SESSIONS)
