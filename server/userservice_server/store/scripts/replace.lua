#!lua
--@include _store.lua
--@include _outcome.lua
--@include _time.lua
--@include _expiry.lua
--@include _ids.lua
--@include _feed.lua
--@include _emails.lua
--@constants USER_UPDATED SESSION_UPDATED
-- Replaces a record by a new one that was made from the old one, if the old one is still there (compare-and-set).
--
-- KEYS[1]  store id of the partition
-- KEYS[2]  layout
-- KEYS[3]  rows of the table
-- KEYS[4]  index of the table
-- KEYS[5]  idempotency record
-- KEYS[6]  index of the owner's table; left out if the records have no owner
-- KEYS[7]  expiry of the owner's sessions; left out if the records have no owner
-- then     both sets of the e-mail index, if the records have no owner; feed of the partition
--
-- ARGV[1]  expected store id
-- ARGV[2]  key of the record
-- ARGV[3]  old: the record for which the verdict was found; empty if there was none
-- ARGV[4]  verdict: DONE and the new record, or the outcome to return
-- ARGV[5]  fingerprint of the request; empty without a request_id
-- ARGV[6]  owner: user_id of the user to whom the record belongs; empty if the records have no owner
-- ARGV[7]  time at which the new record expires, in microseconds, not before the expiry of the old record; empty: the
--          expiry does not change
-- ARGV[8]  1 if the feed reports the change
-- ARGV[9]  key of the e-mail address in the new record of a user (see _emails.lua); empty without an address, and for
--          other records
--
-- Returns:
--   the verdict              the record was replaced, or the request is rejected
--   NOT_FOUND                there is no record with this key, or it has expired
--   OWNER_NOT_FOUND          the owner does not exist
--   CONFLICT and the record  the record is not the old one: repeat with the present one
--   CONFLICT                 the old record was removed: repeat without it
--   REQUEST_ID_REUSED        the request_id was used for another request
--   STORE_CHANGED            this is another store, or it has lost keys
--   {any outcome}            that the idempotency record of this request holds
local rows, index, request_key, owner_index = KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local key, old, verdict, fingerprint, owner = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local expiry_key = owner ~= '' and KEYS[7]

if is_changed_store(KEYS[1], KEYS[2], rows, index, ARGV[1]) then
  return STORE_CHANGED
end
local recorded = recorded_outcome(request_key, fingerprint)
if recorded then
  return recorded
end
local id = redis.call('HGET', index, key)
if not id or has_ended(expiry_key, id) then
  if old ~= '' then
    return CONFLICT -- an update with allow_missing adds the record; other updates then return NOT_FOUND
  end
  return conclude(request_key, fingerprint, missing(owner_index, owner))
end
if old == '' or tonumber(redis.call('ZSCORE', rows, old) or -1) ~= tonumber(id) then
  local current = redis.call('ZRANGE', rows, id, id, 'BYSCORE')[1]
  return current and CONFLICT .. current or STORE_CHANGED -- no current record: data was lost
end
if verdict:sub(1, 1) == DONE then
  if ARGV[8] == '1' then
    local owner_id = owner ~= '' and (redis.call('HGET', owner_index, owner) or 0)
    append_changes({ change_of(owner == '' and USER_UPDATED or SESSION_UPDATED, id, owner_id) })
  end
  if owner == '' and has_email_index() then
    replace_email(id, ARGV[9])
  end
  redis.call('ZREM', rows, old)
  redis.call('ZADD', rows, id, verdict:sub(2))
  if ARGV[7] ~= '' then
    redis.call('ZADD', expiry_key, ARGV[7], id)
  end
end
return conclude(request_key, fingerprint, verdict)
