--@constants MICROSECONDS_A_SECOND
-- Sessions that end. Shared by the scripts that read or write sessions.
--
-- The expiry of a user's sessions is a sorted set: id of a session, and as its score the time at which the session ends,
-- in microseconds since 1970. A session that is not in the set does not end. The expiry queue of a partition is a sorted
-- set of users' ids; the score of a user is not later than the end of the first of the user's sessions that ends.

-- Returns the present time by the store's clock, in microseconds.
local function present_time()
  local now = redis.call('TIME')
  return now[1] * MICROSECONDS_A_SECOND + now[2]
end

-- Returns whether a record has ended. The key is nil in tables whose records do not end.
local function has_ended(expiry_key, id)
  local ends_at = expiry_key and redis.call('ZSCORE', expiry_key, id)
  return ends_at and tonumber(ends_at) <= present_time()
end

-- Returns the ids of at most ``most`` sessions of a user that have ended.
local function ended_ids(expiry_key, most)
  local now = string.format('%.0f', present_time())
  return redis.call('ZRANGE', expiry_key, '-inf', now, 'BYSCORE', 'LIMIT', 0, most)
end
