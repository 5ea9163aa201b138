#!lua
--@include _store.lua
--@include _varint.lua
--@include _outcome.lua
--@include _ids.lua
--@include _sessions.lua
--@include _time.lua
--@include _expiry.lua
--@include _feed.lua
--@include _ended.lua
--@include _emails.lua
--@constants FRAME_TAG ID_TAG MOST_SESSIONS USER_ADDED SESSION_ADDED
-- Adds a record. Gives it the next id of the partition, which becomes part of the record between head and tail.
--
-- KEYS[1]  store id of the partition
-- KEYS[2]  layout
-- KEYS[3]  rows of the table
-- KEYS[4]  index of the table
-- KEYS[5]  last id of the partition
-- KEYS[6]  idempotency record
-- KEYS[7]  index of the owner's table; left out if the records have no owner
-- KEYS[8]  session count; left out if the records have no owner
-- KEYS[9]  expiry of the owner's sessions; left out if the records have no owner
-- KEYS[10] expiry queue; left out if the records have no owner
-- then     both sets of the e-mail index, if the records have no owner; feed of the partition
--
-- ARGV[1]  expected store id
-- ARGV[2]  key of the record: user_id or session_id
-- ARGV[3]  head: the encoded fields before the id
-- ARGV[4]  tail: the encoded fields after the id
-- ARGV[5]  fingerprint of the request; empty without a request_id
-- ARGV[6]  number of the partition
-- ARGV[7]  owner: user_id of the user to whom the record belongs; empty if the records have no owner
-- ARGV[8]  time at which the record expires, in microseconds; empty if it does not expire
-- ARGV[9]  1: the record is added because an update found none; if there is one now, the update must be repeated
-- ARGV[10] key of the e-mail address of a user (see _emails.lua); empty without an address, and for other records
--
-- Returns:
--   DONE and the record      the record was added
--   EXISTS                   there is a record with this key, and it has not expired
--   SESSION_LIMIT            the owner has the maximum number of sessions
--   TIME_PASSED              the record would expire at a time that has passed
--   CONFLICT and the record  there is a record with this key, and this is an update
--   OWNER_NOT_FOUND          the owner does not exist
--   REQUEST_ID_REUSED        the request_id was used for another request
--   STORE_CHANGED            this is another store, or it has lost keys
--   WRONG_CLOCK              the next id would be above MAX_ID
--   {any outcome}            that the idempotency record of this request holds
local rows, index, last_id_key, request_key, owner_index = KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local key, head, tail, fingerprint, partition, owner = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local expiry_key, ends_at = owner ~= '' and KEYS[9], ARGV[8]

-- The clock keeps ids growing after a failover that lost the last id; the last id keeps them growing if the clock is
-- set back.
local function next_id(last)
  return math.max(id_of_now() + partition, last + PARTITIONS)
end

if is_changed_store(KEYS[1], KEYS[2], rows, index, ARGV[1]) then
  return STORE_CHANGED
end
local recorded = recorded_outcome(request_key, fingerprint)
if recorded then
  return recorded
end
local owner_id = owner ~= '' and redis.call('HGET', owner_index, owner)
if owner ~= '' and not owner_id then
  return conclude(request_key, fingerprint, OWNER_NOT_FOUND)
end
local present_id = redis.call('HGET', index, key)
local ended_id = present_id and has_ended(expiry_key, present_id) and present_id
if present_id and not ended_id then
  if ARGV[9] ~= '1' then
    return conclude(request_key, fingerprint, EXISTS)
  end
  local present = redis.call('ZRANGE', rows, present_id, present_id, 'BYSCORE')[1]
  return present and CONFLICT .. present or STORE_CHANGED -- no present record: data was lost
end

if ends_at ~= '' and tonumber(ends_at) <= present_time() then
  return conclude(request_key, fingerprint, TIME_PASSED)
end
if owner_id then
  local count = redis.call('ZCARD', rows)
  if count >= MOST_SESSIONS then
    ended_id = ended_id or ended_ids(expiry_key, 1)[1]
    if not ended_id or count > MOST_SESSIONS then
      return conclude(request_key, fingerprint, SESSION_LIMIT)
    end
  end
end

local last = tonumber(redis.call('GET', last_id_key) or '')
if not last then
  return STORE_CHANGED -- every store has a last id from its creation on
end
local id = next_id(last)
if id > MAX_ID then
  return WRONG_CLOCK -- such an id would be rounded, here and in JavaScript
end
local id_text = string.format('%.0f', id)
local body = head .. ID_TAG .. varint(id) .. tail
local record = FRAME_TAG .. varint(#body) .. body
local changes = { ended_id and expired_change(rows, ended_id, owner_id) or nil }
changes[#changes + 1] = change_of(owner_id and SESSION_ADDED or USER_ADDED, id, owner_id)
append_changes(changes)
if ARGV[10] ~= '' and has_email_index() then
  add_email(id, ARGV[10], user_of(ARGV[10]))
end
if owner_id then
  count_sessions(KEYS[8], owner_id, 'added', 1)
end
if ended_id then
  count_sessions(KEYS[8], owner_id, 'removed', 1)
  remove_ended(rows, index, expiry_key, ended_id)
end
redis.call('SET', last_id_key, id_text)
redis.call('HSET', index, key, id_text)
redis.call('ZADD', rows, id_text, record)
if ends_at ~= '' then
  redis.call('ZADD', expiry_key, ends_at, id_text)
  redis.call('ZADD', KEYS[10], 'LT', ends_at, owner_id)
end
return conclude(request_key, fingerprint, DONE .. record)
