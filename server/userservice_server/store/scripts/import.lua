#!lua
--@include _ids.lua
--@include _store.lua
--@include _varint.lua
--@include _import.lua
--@include _time.lua
--@include _feed.lua
--@include _emails.lua
--@constants FRAME_TAG KEY_TAG ID_TAG CONFLICT NOT_FOUND STORE_CHANGED WRONG_CLOCK
--@constants USER_ADDED USER_UPDATED MAX_ROW_ERRORS ROW_ERRORS_TAG INDEX_TAG
-- Applies the next rows of an import in a partition, together with the offset up to which rows are applied.
--
-- KEYS[1]  store id of the partition
-- KEYS[2]  layout
-- KEYS[3]  rows of the users
-- KEYS[4]  index of the users
-- KEYS[5]  last id of the partition
-- KEYS[6]  state of the import
-- KEYS[7]  row errors of the import
-- KEYS[8]  e-mail index: users by the keys of their addresses
-- KEYS[9]  e-mail index: users of shared keys
-- KEYS[10] feed of the partition
--
-- ARGV[1]   expected store id
-- ARGV[2]   number of the partition
-- ARGV[3]   start: the rows of the partition below this offset must be applied already
-- ARGV[4]   stop: the offset afterwards
-- ARGV[5]   what to do with a row without an old record whose user exists: FAIL, SKIP, or CONFLICT if the server has
--           found no user
-- ARGV[6]   1 to write the users; 0 to check the rows only
-- ARGV[7]   1 if the rows are restored: `old` of a row is then its id, and `new` the whole record
-- ARGV[8]   status of a row whose user exists: the encoded field 2 of a RowError
-- ARGV[9]   status of a restored row whose id is in use
-- ARGV[10]  merged: number of rows that the server has merged into these rows
-- ARGV[11]  replaced: number of rows that replace a user
-- ARGV[12]  added: number of rows that add a user, if ARGV[5] is CONFLICT; otherwise the script counts them
-- ARGV[13]  places: for each row, its distance from the start, as two bytes
-- ARGV[14]  number of rows that the server has rejected
-- ARGV[15…] for each rejected row: index and the encoded RowError, framed as an element of `row_errors`
-- then, for each row: user_id, old, new and the key of the e-mail address (see _emails.lua). Without an old record,
--           `new` is the encoded fields after the id; otherwise `new` is the record that replaces the old one
--
-- Returns:
--   {'applied', numbers of the state, framed errors}  the rows were applied; errors of rows whose user or id exists
--   {'moved', numbers of the state}                   nothing was written: the server expected another offset
--   CONFLICT       nothing was written: a user has changed since the server has read it
--   NOT_FOUND      there is no import with this import_id
--   STORE_CHANGED  this is another store, or it has lost keys
--   WRONG_CLOCK    an id would be above MAX_ID
local call, format = redis.call, string.format
local rows, index, last_id_key, state_key, errors_key = KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local partition, start, stop, if_exists = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local writes, restores, places = ARGV[6] == '1', ARGV[7] == '1', ARGV[13]
local FIRST_ERROR, ROW_ARGUMENTS = 15, 4
local first_row = FIRST_ERROR + 2 * tonumber(ARGV[14])

if is_changed_store(KEYS[1], KEYS[2], rows, index, ARGV[1]) then
  return STORE_CHANGED
end
local state = call('GET', state_key)
if not state then
  return NOT_FOUND
end
local numbers, mode = parsed_state(state)
if numbers[1] ~= start then
  return { 'moved', numbers }
end
local last = tonumber(call('GET', last_id_key) or '')
if not last then
  return STORE_CHANGED -- every store has a last id from its creation on
end

local errors = {} -- pairs of index and framed RowError
for position = FIRST_ERROR, first_row - 1, 2 do
  errors[#errors + 1] = { tonumber(ARGV[position]), ARGV[position + 1] }
end

local function row_index(row)
  local low, high = string.byte(places, row * 2 - 1, row * 2)
  return start + low + high * 256
end

local framed_errors = {}
local function fail(row, status)
  local place = row_index(row)
  local body = INDEX_TAG .. varint(place) .. status
  local framed = ROW_ERRORS_TAG .. varint(#body) .. body
  errors[#errors + 1] = { place, framed }
  framed_errors[#framed_errors + 1] = framed
end

local user_ids = {}
for position = first_row, #ARGV, ROW_ARGUMENTS do
  user_ids[#user_ids + 1] = ARGV[position]
end
local ids = #user_ids > 0 and call('HMGET', index, unpack(user_ids)) or {}

local next_id = math.max(id_of_now() + partition, last + PARTITIONS)
local newest = last
local in_use = {} -- user_ids and ids of earlier rows of this script
local old_records, entries, records = {}, {}, {}
local entry_count, record_count = 0, 0
local added, skipped = 0, 0
local is_fed, changes = has_feed(), {}
local new_ids, new_keys = {}, {} -- ids of new users with an address, and the keys of their addresses
local updated = {} -- pairs of the id of an updated user and the key of its address

-- Returns the varint of an id. Most ids of a script differ only in their first two bytes; the other bytes are kept.
local upper, encoded_upper
local function id_varint(id)
  local middle = math.floor(id / 128)
  local high = math.floor(middle / 128)
  if high == 0 then
    return varint(id)
  elseif high ~= upper then
    upper, encoded_upper = high, varint(high)
  end
  return string.char(id % 128 + 128, middle % 128 + 128) .. encoded_upper
end

local function note_change(kind, id)
  if is_fed then
    changes[#changes + 1] = change_of(kind, id)
  end
end

-- Adds the new users to the e-mail index, and changes the keys of the updated users. One command adds all new users whose
-- keys no other user has, and one command adds those whose keys are shared already.
local function index_emails()
  local emails, shared = email_sets()
  local members, used, unshared, of_shared, others = {}, {}, {}, {}, {}
  for position = 1, #new_keys do
    members[position] = email_member(new_keys[position])
  end
  local present = #members > 0 and call('ZMSCORE', emails, unpack(members)) or {}
  for position = 1, #members do
    local member = members[position]
    if present[position] and tonumber(present[position]) == SHARED then
      of_shared[#of_shared + 1] = new_keys[position]
      of_shared[#of_shared + 1] = email_member(new_ids[position])
    elseif present[position] or used[member] then
      others[#others + 1] = position
    else
      used[member] = true
      unshared[#unshared + 1] = new_ids[position]
      unshared[#unshared + 1] = member
    end
  end
  if #unshared > 0 then
    call('ZADD', emails, unpack(unshared))
  end
  if #of_shared > 0 then
    call('ZADD', shared, unpack(of_shared))
  end
  for _, position in ipairs(others) do
    add_email(new_ids[position], new_keys[position], user_of(new_keys[position]))
  end
  for _, user in ipairs(updated) do
    replace_email(user[1], user[2])
  end
end

-- `id` may be a number. It is a text in the index, because Redis 7.2.0 to 7.2.4 shorten numbers that end with zeros to an
-- exponent (1.5e+14). A score may be such a text.
local function put(user_id, id, record, email_key)
  entries[entry_count + 1], entries[entry_count + 2] = user_id, format('%.0f', id)
  records[record_count + 1], records[record_count + 2] = id, record
  entry_count, record_count = entry_count + 2, record_count + 2
  in_use[user_id] = true
  note_change(USER_ADDED, id)
  if email_key ~= '' then
    new_ids[#new_ids + 1] = id
    new_keys[#new_keys + 1] = email_key
  end
end

for row = 1, #user_ids do
  local user_id, argument = user_ids[row], first_row + (row - 1) * ROW_ARGUMENTS
  local old, new, email_key, id = ARGV[argument + 1], ARGV[argument + 2], ARGV[argument + 3], ids[row]
  if old ~= '' and not restores then
    if not id or tonumber(call('ZSCORE', rows, old) or -1) ~= tonumber(id) then
      return CONFLICT
    end
    old_records[#old_records + 1] = old
    records[record_count + 1], records[record_count + 2] = id, new
    record_count = record_count + 2
    note_change(USER_UPDATED, id)
    updated[#updated + 1] = { id, email_key }
  elseif id or in_use[user_id] then
    if if_exists == 'CONFLICT' then
      return CONFLICT
    elseif if_exists == 'SKIP' then
      skipped = skipped + 1
    else
      fail(row, ARGV[8])
    end
  elseif restores then
    if in_use[tonumber(old)] or #call('ZRANGE', rows, old, old, 'BYSCORE', 'LIMIT', 0, 1) > 0 then
      fail(row, ARGV[9])
    else
      put(user_id, old, new, email_key)
      in_use[tonumber(old)] = true
      newest = math.max(newest, tonumber(old))
      added = added + 1
    end
  else
    local length, encoded_id = varint(#user_id), id_varint(next_id)
    local size = #KEY_TAG + #length + #user_id + #ID_TAG + #encoded_id + #new
    -- one concatenation, because each one copies the record
    local record = FRAME_TAG .. varint(size) .. KEY_TAG .. length .. user_id .. ID_TAG .. encoded_id .. new
    put(user_id, next_id, record, email_key)
    newest, next_id = next_id, next_id + PARTITIONS
    added = added + 1
  end
end
if newest > MAX_ID then
  return WRONG_CLOCK -- such an id would be rounded, here and in JavaScript
end

if writes then
  append_changes(changes)
  if has_email_index() then
    index_emails()
  end
  if #old_records > 0 then
    call('ZREM', rows, unpack(old_records))
  end
  if #entries > 0 then
    call('HSET', index, unpack(entries))
    call('SET', last_id_key, format('%.0f', newest))
  end
  if #records > 0 then
    call('ZADD', rows, unpack(records))
  end
end
numbers[1] = stop
numbers[2] = numbers[2] + (if_exists == 'CONFLICT' and tonumber(ARGV[12]) or added)
numbers[3] = numbers[3] + tonumber(ARGV[10])
numbers[4] = numbers[4] + tonumber(ARGV[11])
numbers[5] = numbers[5] + skipped
numbers[6] = numbers[6] + #errors
if #errors > 0 then
  table.sort(errors, function(one, other)
    return one[1] < other[1]
  end)
  local members = {}
  for position = 1, math.min(#errors, MAX_ROW_ERRORS - call('ZCARD', errors_key)) do
    members[#members + 1] = format('%.0f', errors[position][1])
    members[#members + 1] = errors[position][2]
  end
  if #members > 0 then
    call('ZADD', errors_key, unpack(members))
  end
end
write_state(state_key, numbers, mode)
call('PEXPIRE', errors_key, IMPORT_TTL_MS)
return { 'applied', numbers, framed_errors }
