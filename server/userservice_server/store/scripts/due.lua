#!lua flags=no-writes
--@include _time.lua
--@include _expiry.lua
-- Returns the users who may have expired sessions: for how many microseconds the first of them is due, and then the id
-- of each user, followed by the user's record, or by false if the user does not exist. Nothing if no user is due.
--
-- KEYS[1]  expiry queue
-- KEYS[2]  rows of the users
--
-- ARGV[1]  maximum number of users
local ids = ended_ids(KEYS[1], ARGV[1])
if #ids == 0 then
  return {}
end
local found = { string.format('%.0f', present_time() - redis.call('ZSCORE', KEYS[1], ids[1])) }
for _, id in ipairs(ids) do
  found[#found + 1] = id
  found[#found + 1] = redis.call('ZRANGE', KEYS[2], id, id, 'BYSCORE')[1] or false
end
return found
