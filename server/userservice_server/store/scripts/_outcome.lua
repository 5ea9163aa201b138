-- Shared by the scripts that write. An outcome is one letter and a payload:
--   K done, payload: the record (none for a delete)   E exists already          N not found
--   P owner not found                                 M etag mismatch           V refused, payload: the violations
--   R request_id used for another request             C changed meanwhile: repeat, payload: the record now, if known
--   S another store, or one that has lost keys        T the store's clock is wrong; both: nothing was changed

local REQUEST_TTL_MS = 600000 -- 10 minutes: how long a request_id is remembered
local FINGERPRINT_BYTES = 16

-- The outcome recorded for this request_id, or nil if it is new or none was given (fingerprint is then empty).
local function recorded_outcome(request_key, fingerprint)
  if fingerprint == '' then
    return nil
  end
  local recorded = redis.call('GET', request_key)
  if not recorded then
    return nil
  end
  if recorded:sub(1, FINGERPRINT_BYTES) ~= fingerprint then
    return 'R'
  end
  return recorded:sub(FINGERPRINT_BYTES + 1)
end

-- Returns the outcome, recorded beside the write itself, so that a repeated request finds either both or neither.
local function conclude(request_key, fingerprint, outcome)
  if fingerprint ~= '' then
    redis.call('SET', request_key, fingerprint .. outcome, 'PX', REQUEST_TTL_MS)
  end
  return outcome
end

-- Why a name is not in the index of its table: its owner is missing (P), or only itself (N). No owner is ''.
local function missing(owner_index, owner)
  if owner ~= '' and redis.call('HEXISTS', owner_index, owner) == 0 then
    return 'P'
  end
  return 'N'
end
