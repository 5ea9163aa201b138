#!lua flags=no-writes
-- Reads the records of many names: a list in their order, false where there is none.
-- KEYS: rows, index
-- ARGV: names
local records = redis.call('HMGET', KEYS[2], unpack(ARGV))
for position, id in ipairs(records) do
  if id then
    records[position] = redis.call('ZRANGE', KEYS[1], id, id, 'BYSCORE')[1]
  end
end
return records
