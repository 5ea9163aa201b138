#!lua flags=no-writes
--@constants STORE_CHANGED
-- Finds users by the keys of their e-mail addresses, in the order of their ids. _emails.lua describes the index.
--
-- KEYS[1]  store id of the partition
-- KEYS[2]  layout
-- KEYS[3]  rows of the users
-- KEYS[4]  index of the users
-- KEYS[5]  e-mail index: users by the keys of their addresses
-- KEYS[6]  e-mail index: users of shared keys
--
-- ARGV[1]  expected store id
-- ARGV[2]  only users with larger ids
-- ARGV[3]  maximum number of users of one address that are examined
-- ARGV[4]  maximum number of users
-- ARGV[5]  bytes of users after which the reply ends
-- ARGV[6…] keys of addresses in 7 bytes, each once
--
-- Returns:
--   {state, version, reached, records}  state and Unicode version of the index, '' without an index. reached: the
--                                       records contain all users up to this id; 0 if they contain all users
--   STORE_CHANGED                       this is another store, or it has lost the rows or the index
local call, unpacked, rows, shared = redis.call, struct.unpack, KEYS[3], KEYS[6]
local after, most, limit, room = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local FIRST_KEY, SHARED = 6, 0

-- Returns the number in a member: an id or a key.
local function number_of(member)
  return (unpacked('>I7', member))
end

-- Returns up to `most` users of a shared key, ordered by id; leaves out ids up to `after` if there are many.
local function members_of(email_key)
  local found = call('ZRANGE', shared, email_key, email_key, 'BYSCORE', 'LIMIT', 0, most)
  if #found < most or number_of(found[most]) > after then
    return found
  end
  local low = call('ZRANK', shared, found[1])
  local stop = call('ZRANK', shared, call('ZRANGE', shared, email_key, email_key, 'BYSCORE', 'REV', 'LIMIT', 0, 1)[1]) + 1
  local high = stop
  while low < high do
    local middle = math.floor((low + high) / 2)
    if number_of(call('ZRANGE', shared, middle, middle)[1]) > after then
      high = middle
    else
      low = middle + 1
    end
  end
  return low < stop and call('ZRANGE', shared, low, math.min(low + most, stop) - 1) or {}
end

if call('GET', KEYS[1]) ~= ARGV[1] or call('EXISTS', rows, KEYS[4]) == 1 then
  return STORE_CHANGED
end
local ids, count, reached = {}, 0, math.huge
local function note(id)
  if id > after then
    count = count + 1
    ids[count] = id
  end
end

local found = call('ZMSCORE', KEYS[5], unpack(ARGV, FIRST_KEY))
for position = 1, #found do
  local id = found[position] and tonumber(found[position])
  if id == SHARED then
    local members = members_of(number_of(ARGV[FIRST_KEY - 1 + position]))
    for number = 1, #members do
      note(number_of(members[number]))
    end
    if #members == most then -- there may be more
      reached = math.min(reached, number_of(members[most]))
    end
  elseif id then
    note(id)
  end
end
table.sort(ids)
local records, length, bytes = {}, 0, 0
for position = 1, count do
  local id = ids[position]
  if id > reached then
    break
  end
  if length == limit or bytes >= room then
    reached = ids[position - 1]
    break
  end
  local record = call('ZRANGE', rows, id, id, 'BYSCORE')[1]
  if record then
    length = length + 1
    records[length] = record
    bytes = bytes + #record
  end
end
local state = call('HMGET', KEYS[2], 'email_index', 'email_unicode')
return { state[1] or '', state[2] or '', reached < math.huge and string.format('%.0f', reached) or '0', records }
