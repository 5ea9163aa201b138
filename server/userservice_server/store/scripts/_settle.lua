-- Shared by create.lua and upgrade.lua. Identifies the store: creates a store if there is none, adds a store id to a
-- store of the first release, and otherwise checks that all required keys exist. The script is atomic, so all servers
-- get the same result.
--
-- KEYS[1]   layout
-- KEYS[2…]  for each partition: store id, rows, index, last id, session count
--
-- ARGV[1]   version of the layout of a store of the first release
-- ARGV[2]   number of partitions
-- ARGV[3]   a random store id, for a store that gets one
-- ARGV[4]   the store id that the server expects; empty before the server has opened a store. Users without a store id
--           get one only then: later, they are not in the store that the server opened.
-- ARGV[5]   version of the layout of a new store, which has an e-mail index
-- ARGV[6]   version of Unicode for the e-mail index
--
-- Returns the result, the store id and the lowest id that the store assigns. Results:
--   created      every partition was empty
--   upgraded     a store of the first release got its store id
--   kept         the store is complete
--   wrong clock  a new store would assign ids above MAX_ID; nothing was written
--   no layout    there is data without a layout; nothing was written
--   no id        there is data without a store id, and the server expects one; nothing was written
--   other ids    the store ids of layout and partitions differ or are missing; nothing was written
--   no last id   the last id of a partition is missing; nothing was written
--   no rows      the rows or the index of a partition are missing; nothing was written
local layout = KEYS[1]
local version, partitions, new_id, expected = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local PARTITION_KEYS = 5

local function partition_keys(partition)
  return unpack(KEYS, 2 + partition * PARTITION_KEYS, 1 + (partition + 1) * PARTITION_KEYS)
end

local function is_empty()
  for partition = 0, partitions - 1 do
    local store_id_key, rows, index, last_id_key = partition_keys(partition)
    if redis.call('EXISTS', store_id_key, rows, index, last_id_key) > 0 then
      return false
    end
  end
  return true
end

local function create()
  local first = id_of_now()
  if first + PARTITIONS * 2 > MAX_ID then
    return { 'wrong clock', '', '0' }
  end
  local lowest = string.format('%.0f', first + PARTITIONS)
  for partition = 0, partitions - 1 do
    local store_id_key, _, _, last_id_key, session_count_key = partition_keys(partition)
    redis.call('HSET', session_count_key, 'covered', string.format('%.0f', MAX_ID), 'added', 0, 'removed', 0)
    redis.call('SET', store_id_key, new_id)
    redis.call('SET', last_id_key, string.format('%.0f', first + partition))
  end
  local fields = { 'version', ARGV[5], 'partitions', partitions, 'store_id', new_id, 'lowest_id', lowest }
  redis.call('HSET', layout, 'email_index', 'complete', 'email_unicode', ARGV[6], unpack(fields))
  return { 'created', new_id, lowest }
end

-- Returns the store id of all partitions: '' if no partition has a store id, nil if the store ids differ.
local function common_id()
  local common
  for partition = 0, partitions - 1 do
    local store_id_key = partition_keys(partition)
    local id = redis.call('GET', store_id_key) or ''
    if common and common ~= id then
      return nil
    end
    common = id
  end
  return common
end

local function upgrade()
  for partition = 0, partitions - 1 do
    local store_id_key, rows, _, last_id_key = partition_keys(partition)
    redis.call('SET', store_id_key, new_id)
    local newest = redis.call('ZRANGE', rows, -1, -1, 'WITHSCORES')[2]
    redis.call('SET', last_id_key, string.format('%.0f', newest or partition), 'NX')
  end
  redis.call('HSET', layout, 'version', version, 'partitions', partitions, 'store_id', new_id)
  return { 'upgraded', new_id, '0' }
end

local function lost_key()
  for partition = 0, partitions - 1 do
    local _, rows, index, last_id_key = partition_keys(partition)
    if redis.call('EXISTS', rows, index) == 1 then
      return 'no rows'
    end
    if redis.call('EXISTS', last_id_key) == 0 then
      return 'no last id'
    end
  end
end

if is_empty() then
  return create()
end
if redis.call('EXISTS', layout) == 0 then
  return { 'no layout', '', '0' }
end
local id, named = common_id(), redis.call('HGET', layout, 'store_id')
if id == '' and not named then
  if expected ~= '' then
    return { 'no id', '', '0' }
  end
  return upgrade()
end
if not id or id == '' or (named and named ~= id) then
  return { 'other ids', '', '0' }
end
local lost = lost_key()
if lost then
  return { lost, '', '0' }
end
if not named then -- a server of the first release created the layout again
  redis.call('HSET', layout, 'version', version, 'partitions', partitions, 'store_id', id)
end
return { 'kept', id, redis.call('HGET', layout, 'lowest_id') or '0' }
