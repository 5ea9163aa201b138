#!lua flags=no-writes
--@constants STORE_CHANGED
-- Reads the records of many keys.
--
-- KEYS[1]   store id of the partition
-- KEYS[2]   rows of the table
-- KEYS[3]   index of the table
--
-- ARGV[1]   expected store id
-- ARGV[2…]  keys of the records
--
-- Returns:
--   a list         the records in the order of the keys, false for a key without a record
--   STORE_CHANGED  this is another store, or a key is in the index without its record in the rows: data was lost
local call, rows = redis.call, KEYS[2]
local MOST_READ = 2 -- a range may read this many records per requested record; a larger range costs more time than it saves

-- Returns the records of these ids, by id, if one range contains all of them and few others; otherwise an empty table.
-- Such ranges are common in a small store, and for users who were added one after the other. Redis searches the rows
-- once for a range, instead of once for each id.
local function read_as_range(ids)
  local lowest, highest, count = math.huge, 0, 0
  for position = 1, #ids do
    local id = ids[position]
    if id then
      id, count = id + 0, count + 1
      if id < lowest then
        lowest = id
      end
      if id > highest then
        highest = id
      end
    end
  end
  if count < 2 then
    return {}
  end
  local first, last = string.format('%.0f', lowest), string.format('%.0f', highest)
  if #call('ZRANGE', rows, first, last, 'BYSCORE', 'LIMIT', count * MOST_READ, 1) == 1 then
    return {}
  end
  local read, by_id = call('ZRANGE', rows, first, last, 'BYSCORE', 'WITHSCORES'), {}
  for position = 1, #read, 2 do
    by_id[read[position + 1]] = read[position]
  end
  return by_id
end

if call('GET', KEYS[1]) ~= ARGV[1] then
  return STORE_CHANGED
end
local records = call('HMGET', KEYS[3], unpack(ARGV, 2))
local by_id = read_as_range(records)
for position = 1, #records do
  local id = records[position]
  if id then
    local record = by_id[id] or call('ZRANGE', rows, id, id, 'BYSCORE')[1]
    if not record then
      return STORE_CHANGED
    end
    records[position] = record
  end
end
return records
