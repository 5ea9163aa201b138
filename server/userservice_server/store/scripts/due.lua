#!lua flags=no-writes
--@include _time.lua
--@include _expiry.lua
-- Returns the users who may have expired sessions: a list of ids, each followed by the user's record, or by false if
-- the user does not exist.
--
-- KEYS[1]  expiry queue
-- KEYS[2]  rows of the users
--
-- ARGV[1]  maximum number of users
local found = {}
for _, id in ipairs(ended_ids(KEYS[1], ARGV[1])) do
  found[#found + 1] = id
  found[#found + 1] = redis.call('ZRANGE', KEYS[2], id, id, 'BYSCORE')[1] or false
end
return found
