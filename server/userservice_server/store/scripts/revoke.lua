#!lua flags=allow-oom
--@include _store.lua
--@include _outcome.lua
--@include _sessions.lua
--@include _time.lua
--@include _expiry.lua
--@include _varint.lua
--@include _ids.lua
--@include _feed.lua
--@constants COUNT_TAG MOST_SESSIONS SESSION_DELETED SESSION_EXPIRED
-- Removes all sessions of a user, or all except one. Allowed if memory is full: deleting makes room.
--
-- KEYS[1]  store id of the partition
-- KEYS[2]  layout
-- KEYS[3]  rows of the sessions
-- KEYS[4]  index of the sessions
-- KEYS[5]  idempotency record
-- KEYS[6]  index of the users
-- KEYS[7]  session count
-- KEYS[8]  expiry of the user's sessions
-- KEYS[9]  expiry queue
-- KEYS[10] feed of the partition
--
-- ARGV[1]  expected store id
-- ARGV[2]  user_id
-- ARGV[3]  session_id of the session to keep; empty: none
-- ARGV[4]  fingerprint of the request; empty without a request_id
--
-- Returns:
--   DONE and the response  the sessions were removed; the response contains their number
--   OWNER_NOT_FOUND        the user does not exist
--   REQUEST_ID_REUSED      the request_id was used for another request
--   STORE_CHANGED          this is another store, or it has lost keys
--   {any outcome}          that the idempotency record of this request holds
local rows, index, request_key, expiry_key, queue = KEYS[3], KEYS[4], KEYS[5], KEYS[8], KEYS[9]
local user_id, kept_key, fingerprint = ARGV[2], ARGV[3], ARGV[4]

-- Returns the entries of the feed for all sessions except the one that is kept.
local function changes_of(owner_id, kept_id, ended)
  local has_expired, changes = {}, {}
  for _, id in ipairs(ended) do
    has_expired[id] = true
  end
  local keys = redis.call('HGETALL', index)
  for position = 1, #keys, 2 do
    local key, id = keys[position], keys[position + 1]
    if id ~= kept_id then
      changes[#changes + 1] = change_of(has_expired[id] and SESSION_EXPIRED or SESSION_DELETED, id, owner_id, key)
    end
  end
  return changes
end

if is_changed_store(KEYS[1], KEYS[2], rows, index, ARGV[1]) then
  return STORE_CHANGED
end
local recorded = recorded_outcome(request_key, fingerprint)
if recorded then
  return recorded
end
local owner_id = redis.call('HGET', KEYS[6], user_id)
if not owner_id then
  return conclude(request_key, fingerprint, OWNER_NOT_FOUND)
end
local kept_id = kept_key ~= '' and redis.call('HGET', index, kept_key)
local kept, kept_ends_at
if kept_id and not has_ended(expiry_key, kept_id) then
  kept = redis.call('ZRANGE', rows, kept_id, kept_id, 'BYSCORE')[1]
  if not kept then
    return STORE_CHANGED
  end
  kept_ends_at = redis.call('ZSCORE', expiry_key, kept_id)
end
local removed = redis.call('ZCARD', rows) - (kept and 1 or 0)
local ended = ended_ids(expiry_key, MOST_SESSIONS)
if has_feed() then
  append_changes(changes_of(owner_id, kept and kept_id, ended))
end
count_sessions(KEYS[7], owner_id, 'removed', removed)
redis.call('UNLINK', rows, index, expiry_key)
redis.call('ZREM', queue, owner_id)
if kept then
  redis.call('HSET', index, kept_key, kept_id)
  redis.call('ZADD', rows, kept_id, kept)
end
if kept_ends_at then
  redis.call('ZADD', expiry_key, kept_ends_at, kept_id)
  redis.call('ZADD', queue, kept_ends_at, owner_id)
end
local response = COUNT_TAG .. varint(math.max(removed - #ended, 0)) -- a RevokeUserSessionsResponse
return conclude(request_key, fingerprint, DONE .. response)
