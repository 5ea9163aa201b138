#!lua flags=no-writes
--@include _outcome.lua
--@include _time.lua
--@include _expiry.lua
-- Reads a record.
--
-- KEYS[1]  rows of the table
-- KEYS[2]  index of the table
-- KEYS[3]  index of the owner's table; left out if the records have no owner
-- KEYS[4]  expiry of the owner's sessions; left out if the records have no owner
--
-- ARGV[1]  key of the record
-- ARGV[2]  owner: user_id of the user to whom the record belongs; empty if the records have no owner
--
-- Returns:
--   DONE and the record  the record exists
--   NOT_FOUND            there is no record with this key, or it has expired
--   OWNER_NOT_FOUND      the owner does not exist
--   STORE_CHANGED        the key is in the index without its record in the rows: data was lost
local id = redis.call('HGET', KEYS[2], ARGV[1])
if not id or has_ended(KEYS[4], id) then
  return missing(KEYS[3], ARGV[2])
end
local record = redis.call('ZRANGE', KEYS[1], id, id, 'BYSCORE')[1]
if not record then
  return STORE_CHANGED
end
return DONE .. record
