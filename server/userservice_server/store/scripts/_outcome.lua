--@constants DONE EXISTS NOT_FOUND OWNER_NOT_FOUND REQUEST_ID_REUSED CONFLICT STORE_CHANGED WRONG_CLOCK
--@constants SESSION_LIMIT TIME_PASSED FINGERPRINT_BYTES REQUEST_TTL_MS
-- Shared by the scripts that return outcomes. An outcome is one letter and a payload:
--   DONE               payload: the record (none for a delete)
--   EXISTS             there is a record with this key
--   NOT_FOUND          there is no record with this key
--   OWNER_NOT_FOUND    the user to whom the record belongs does not exist
--   ETAG_MISMATCH      the etag of the request is not the current one
--   REFUSED            the result would break a rule; payload: the violations
--   REQUEST_ID_REUSED  the request_id was used for another request
--   CONFLICT           the record has changed, and nothing was written: repeat; payload: the present record, if known
--   STORE_CHANGED      this is another store, or it has lost keys; nothing was written
--   WRONG_CLOCK        the store's clock is wrong; nothing was written
--   SESSION_LIMIT      the user has the maximum number of sessions
--   TIME_PASSED        the session would expire at a time that has passed

-- Returns the outcome in the idempotency record of this request_id, or nil if the request_id is new or empty (the
-- fingerprint is then empty). The outcome of an earlier request is in a list of one element, by which the server
-- recognizes it.
local function recorded_outcome(request_key, fingerprint)
  if fingerprint == '' then
    return nil
  end
  local recorded = redis.call('GET', request_key)
  if not recorded then
    return nil
  end
  if recorded:sub(1, FINGERPRINT_BYTES) ~= fingerprint then
    return REQUEST_ID_REUSED
  end
  -- Written again, because WAIT waits only for the writes of its own connection, and the first request may have been
  -- applied without being confirmed by the replicas.
  redis.call('SET', request_key, recorded, 'KEEPTTL')
  return { recorded:sub(FINGERPRINT_BYTES + 1) }
end

-- Writes an idempotency record of the outcome, and returns the outcome. The script that writes the data also writes
-- this record, so a repeated request finds either both or neither.
local function conclude(request_key, fingerprint, outcome)
  if fingerprint ~= '' then
    redis.call('SET', request_key, fingerprint .. outcome, 'PX', REQUEST_TTL_MS)
  end
  return outcome
end

-- Returns why a key is not in the index of its table: the owner does not exist, or only the record does not.
-- The owner is '' in tables that have none.
local function missing(owner_index, owner)
  if owner ~= '' and redis.call('HEXISTS', owner_index, owner) == 0 then
    return OWNER_NOT_FOUND
  end
  return NOT_FOUND
end
