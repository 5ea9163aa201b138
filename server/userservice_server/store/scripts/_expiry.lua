-- Sessions that expire. Shared by the scripts that read or write sessions; needs _time.lua.
--
-- The expiry of a user's sessions is a sorted set of session ids; the score is the time at which the session expires,
-- in microseconds since 1970. A session that is not in the set does not expire. The expiry queue of a partition is a
-- sorted set of users' ids; the score of a user is not later than the first expiry among the user's sessions.

-- Returns whether a record has expired. The key is nil for tables whose records do not expire.
local function has_ended(expiry_key, id)
  local ends_at = expiry_key and redis.call('ZSCORE', expiry_key, id)
  return ends_at and tonumber(ends_at) <= present_time()
end

-- Returns the ids of at most ``most`` expired sessions of a user.
local function ended_ids(expiry_key, most)
  local now = string.format('%.0f', present_time())
  return redis.call('ZRANGE', expiry_key, '-inf', now, 'BYSCORE', 'LIMIT', 0, most)
end
