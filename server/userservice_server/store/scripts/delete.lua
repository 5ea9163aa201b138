#!lua flags=allow-oom
--@include _store.lua
--@include _outcome.lua
--@include _time.lua
--@include _expiry.lua
--@include _sessions.lua
--@include _ids.lua
--@include _feed.lua
--@include _emails.lua
--@constants USER_DELETED SESSION_DELETED
-- Removes a record and the table that it owns. Allowed if memory is full: deleting makes room.
--
-- KEYS[1]     store id of the partition
-- KEYS[2]     layout
-- KEYS[3]     rows of the table
-- KEYS[4]     index of the table
-- KEYS[5]     idempotency record
-- KEYS[6…9]   if the records have an owner: index of the owner's table, session count, expiry of the owner's sessions,
--             expiry queue
-- KEYS[6…10]  if the records have no owner: rows and index of the table of sessions that the record owns, session count,
--             expiry of these sessions, expiry queue; then both sets of the e-mail index
-- then        feed of the partition
--
-- ARGV[1]     expected store id
-- ARGV[2]     key of the record
-- ARGV[3]     old: the record for which the verdict was found. Empty: remove any record; or, if the verdict is not DONE,
--             the verdict was found when there was no record
-- ARGV[4]     verdict: DONE to remove the record, or the outcome to return
-- ARGV[5]     fingerprint of the request; empty without a request_id
-- ARGV[6]     owner: user_id of the user to whom the record belongs; empty if the records have no owner
--
-- Returns:
--   the verdict        the record was removed, or the request is rejected
--   NOT_FOUND          there is no record with this key, or it has expired
--   OWNER_NOT_FOUND    the owner does not exist
--   CONFLICT           the record is not the old one: read it and repeat
--   REQUEST_ID_REUSED  the request_id was used for another request
--   STORE_CHANGED      this is another store, or it has lost keys
--   {any outcome}      that the idempotency record of this request holds
local rows, index, request_key = KEYS[3], KEYS[4], KEYS[5]
local key, old, verdict, fingerprint, owner = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

if is_changed_store(KEYS[1], KEYS[2], rows, index, ARGV[1]) then
  return STORE_CHANGED
end
local recorded = recorded_outcome(request_key, fingerprint)
if recorded then
  return recorded
end
local id = redis.call('HGET', index, key)
if not id or (owner ~= '' and has_ended(KEYS[8], id)) then
  return conclude(request_key, fingerprint, missing(KEYS[6], owner))
end
if old == '' and verdict ~= DONE then
  return CONFLICT -- the record did not exist when the verdict was found, and exists now
end
if old ~= '' and tonumber(redis.call('ZSCORE', rows, old) or -1) ~= tonumber(id) then
  return CONFLICT
end
if verdict == DONE then
  local owner_id = owner ~= '' and (redis.call('HGET', KEYS[6], owner) or 0)
  append_changes({ change_of(owner == '' and USER_DELETED or SESSION_DELETED, id, owner_id, key) })
  if owner == '' then
    if has_email_index() then
      remove_email(id)
    end
    count_sessions(KEYS[8], id, 'removed', redis.call('ZCARD', KEYS[6]))
    redis.call('UNLINK', KEYS[6], KEYS[7], KEYS[9])
    redis.call('ZREM', KEYS[10], id)
  else
    count_sessions(KEYS[7], owner_id, 'removed', 1)
    redis.call('ZREM', KEYS[8], id)
  end
  redis.call('ZREMRANGEBYSCORE', rows, id, id)
  redis.call('HDEL', index, key)
end
return conclude(request_key, fingerprint, verdict)
