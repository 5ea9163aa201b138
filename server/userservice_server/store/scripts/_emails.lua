-- Maintains the e-mail index of a partition. Shared by the scripts that write users; needs KEYS as below.
--
-- The index is a sorted set of the users that have an e-mail address: the member is the id of the user (7 bytes), the
-- score is the key of its address (wire/emails.py), a number. The layout of a store without an index has no field
-- `email_index`, and nothing is written. In all these scripts, KEYS[2] is the layout, and the last key but one is the
-- index.

-- Returns the member of a user.
local function email_member(id)
  return struct.pack('>I7', id)
end

-- Returns whether the store has an index, which may be being built.
local function has_email_index()
  return redis.call('HEXISTS', KEYS[2], 'email_index') == 1
end

-- Writes the key of the address of a user; '' if the user has no address (any more). Like append_changes, it must be
-- called before the script writes anything else.
local function index_email(id, email_key)
  if not has_email_index() then
    return
  end
  if email_key == '' then
    redis.call('ZREM', KEYS[#KEYS - 1], email_member(id))
  else
    redis.call('ZADD', KEYS[#KEYS - 1], email_key, email_member(id))
  end
end
