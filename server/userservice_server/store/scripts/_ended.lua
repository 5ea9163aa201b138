--@constants SESSION_EXPIRED
-- Removes expired sessions. Shared by add.lua and sweep.lua; needs _expiry.lua and _feed.lua.

-- Returns the varint at a position, and the position after it.
local function varint_at(text, position)
  local value, scale, byte = 0, 1
  repeat
    byte = text:byte(position)
    value = value + byte % 128 * scale
    scale, position = scale * 128, position + 1
  until byte < 128
  return value, position
end

-- Returns the key in a record: the record is a frame (tag, length) and its first field (tag, length, key).
local function key_of(record)
  local _, start = varint_at(record, 2)
  local length, first = varint_at(record, start + 1)
  return record:sub(first, first + length - 1)
end

-- Returns the entry of the feed for a session that has ended.
local function expired_change(rows, id, owner_id)
  local record = redis.call('ZRANGE', rows, id, id, 'BYSCORE')[1]
  return record and change_of(SESSION_EXPIRED, id, owner_id, key_of(record))
end

-- Removes the session with this id from the sessions of a user.
local function remove_ended(rows, index, expiry_key, id)
  local record = redis.call('ZRANGE', rows, id, id, 'BYSCORE')[1]
  if record then
    redis.call('HDEL', index, key_of(record))
    redis.call('ZREM', rows, record)
  end
  redis.call('ZREM', expiry_key, id)
end
