-- Maintains the e-mail index of a partition. Shared by the scripts that write users; needs KEYS as below.
--
-- The index has two sorted sets. In the first set, a member is the key of an address (wire/emails.py) in 7 bytes, and
-- its score is the id of the user with this key, or SHARED if several users have this key. The second set contains the
-- users of shared keys: a member is the id of a user in 7 bytes, and its score is the key of the user's address. The
-- layout of a store without an index has no field `email_index`, and nothing is written. In all these scripts, KEYS[2]
-- is the layout, and the last three keys are the first set, the second set, and the feed.
local SHARED = 0

-- Returns the member for the key of an address, or for the id of a user.
local function email_member(number)
  return struct.pack('>I7', number)
end

-- Returns the first and the second set.
local function email_sets()
  return KEYS[#KEYS - 2], KEYS[#KEYS - 1]
end

-- Returns whether the store has an index, which may be being built.
local function has_email_index()
  return redis.call('HEXISTS', KEYS[2], 'email_index') == 1
end

-- Returns the id of the user with this key, SHARED if several users have this key, or nil if no user has it.
local function user_of(email_key)
  return tonumber(redis.call('ZSCORE', (email_sets()), email_member(email_key)) or '')
end

-- Adds a user who is not in the index under another key; `present` is what user_of returns for the key.
local function add_email(id, email_key, present)
  local emails, shared = email_sets()
  if not present then
    redis.call('ZADD', emails, id, email_member(email_key))
  elseif present == SHARED then
    redis.call('ZADD', shared, email_key, email_member(id))
  elseif present ~= tonumber(id) then
    redis.call('ZADD', shared, email_key, email_member(present), email_key, email_member(id))
    redis.call('ZADD', emails, SHARED, email_member(email_key))
  end
end

-- Removes a user from the index; the caller need not know the key of the user.
local function remove_email(id)
  local emails, shared = email_sets()
  if redis.call('ZREMRANGEBYSCORE', emails, id, id) > 0 then
    return
  end
  local member = email_member(id)
  local email_key = redis.call('ZSCORE', shared, member)
  if not email_key then
    return
  end
  redis.call('ZREM', shared, member)
  local others = redis.call('ZRANGE', shared, email_key, email_key, 'BYSCORE', 'LIMIT', 0, 2)
  if #others == 1 then -- the key is not shared any more
    local other_id = struct.unpack('>I7', others[1])
    redis.call('ZREM', shared, others[1])
    redis.call('ZADD', emails, other_id, email_member(email_key))
  end
end

-- Replaces the key of a user. If the user has no address, the key is ''.
local function replace_email(id, email_key)
  if email_key == '' then
    remove_email(id)
    return
  end
  local _, shared = email_sets()
  local present = user_of(email_key)
  local is_own = present == tonumber(id)
  if present == SHARED then
    is_own = tonumber(redis.call('ZSCORE', shared, email_member(id)) or '') == tonumber(email_key)
  end
  if not is_own then
    remove_email(id) -- `present` stays valid, because the user is in the index under another key or not at all
    add_email(id, email_key, present)
  end
end
