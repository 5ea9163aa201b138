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
--   a list         the records in the order of the keys, false where there is none
--   STORE_CHANGED  this is another store, or a key is in the index without its record in the rows: data was lost
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return STORE_CHANGED
end
local records = redis.call('HMGET', KEYS[3], unpack(ARGV, 2))
for position, id in ipairs(records) do
  if id then
    local record = redis.call('ZRANGE', KEYS[2], id, id, 'BYSCORE')[1]
    if not record then
      return STORE_CHANGED
    end
    records[position] = record
  end
end
return records
