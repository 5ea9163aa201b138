#!lua
--@include _outcome.lua
-- Adds a record. Gives it the next id of the partition, which goes into the record between head and tail.
-- KEYS: rows, index, last id, request, index of the owner
-- ARGV: name, head, tail, fingerprint, partition, owner (empty: these records have none)
local rows, index, last_id_key, request_key, owner_index = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local name, head, tail, fingerprint, partition, owner = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

-- An id is 47 bits of time in units of 25 microseconds since 2025-01-01 and 6 bits of partition: 53 bits, which a
-- Lua number and a JavaScript number hold exactly, until the year 2136. The clock makes ids grow across a failover
-- that lost the last id; one more than the last id makes them grow when the clock does not.
local EPOCH_SECONDS, TICKS_A_SECOND, TICK_MICROSECONDS, PARTITIONS = 1735689600, 40000, 25, 64

local function next_id()
  local now = redis.call('TIME')
  local ticks = (now[1] - EPOCH_SECONDS) * TICKS_A_SECOND + math.floor(now[2] / TICK_MICROSECONDS)
  local id = ticks * PARTITIONS + partition
  local last = tonumber(redis.call('GET', last_id_key) or partition)
  if id <= last then
    id = last + PARTITIONS
  end
  return id
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

local id = next_id()
local id_text = string.format('%.0f', id)
local body = head .. '\16' .. varint(id) .. tail -- tag 16: field 2, varint
local record = '\10' .. varint(#body) .. body -- tag 10: field 1, length-delimited
redis.call('SET', last_id_key, id_text)
redis.call('HSET', index, name, id_text)
redis.call('ZADD', rows, id_text, record)
return conclude(request_key, fingerprint, 'K' .. record)
