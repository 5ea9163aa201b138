#!lua
--@include _store.lua
--@include _outcome.lua
--@include _ids.lua
-- Adds a record. Gives it the next id of the partition, which goes into the record between head and tail.
-- KEYS: store id, layout, rows, index, last id, request, index of the owner
-- ARGV: expected store id, name, head, tail, fingerprint, partition, owner (empty: these records have none)
local rows, index, last_id_key, request_key, owner_index = KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local name, head, tail, fingerprint, partition, owner = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]

-- The clock makes ids grow across a failover that lost the last id; one more than the last id makes them grow when the
-- clock does not.
local function next_id(last)
  return math.max(id_of_now() + partition, last + PARTITIONS)
end

-- A protobuf varint.
local function varint(number)
  local encoded = {}
  while number > 127 do
    encoded[#encoded + 1] = string.char(number % 128 + 128)
    number = math.floor(number / 128)
  end
  encoded[#encoded + 1] = string.char(number)
  return table.concat(encoded)
end

if is_other_store(KEYS[1], KEYS[2], ARGV[1]) then
  return 'S'
end
local recorded = recorded_outcome(request_key, fingerprint)
if recorded then
  return recorded
end
if owner ~= '' and redis.call('HEXISTS', owner_index, owner) == 0 then
  return conclude(request_key, fingerprint, 'P')
end
if redis.call('HEXISTS', index, name) == 1 then
  return conclude(request_key, fingerprint, 'E')
end

local last = tonumber(redis.call('GET', last_id_key) or '')
if not last then
  return 'S' -- every store has a last id, from its creation on
end
local id = next_id(last)
if id > MAX_ID then
  return 'T' -- such an id would be rounded, here and in JavaScript
end
local id_text = string.format('%.0f', id)
local body = head .. '\16' .. varint(id) .. tail -- tag 16: field 2, varint
local record = '\10' .. varint(#body) .. body -- tag 10: field 1, length-delimited
redis.call('SET', last_id_key, id_text)
redis.call('HSET', index, name, id_text)
redis.call('ZADD', rows, id_text, record)
return conclude(request_key, fingerprint, 'K' .. record)
