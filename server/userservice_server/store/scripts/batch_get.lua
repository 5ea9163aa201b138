#!lua flags=no-writes
-- Reads the records of many names: a list in their order, false where there is none.
-- KEYS: store id, rows, index
-- ARGV: expected store id, names
-- Returns S instead for another store, and if a name is in the index without its record in the rows: data are lost.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 'S'
end
local records = redis.call('HMGET', KEYS[3], unpack(ARGV, 2))
for position, id in ipairs(records) do
  if id then
    local record = redis.call('ZRANGE', KEYS[2], id, id, 'BYSCORE')[1]
    if not record then
      return 'S'
    end
    records[position] = record
  end
end
return records
