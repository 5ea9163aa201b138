#!lua flags=no-writes
--@constants STORE_CHANGED
-- Divides the records of a table into ranges of ids with almost the same number of records.
--
-- KEYS[1]  store id of the partition
-- KEYS[2]  rows of the table
-- KEYS[3]  index of the table
--
-- ARGV[1]  expected store id
-- ARGV[2]  maximum number of ranges
--
-- Returns:
--   a list         the last id of each range, in increasing order; empty if there are no records
--   STORE_CHANGED  this is another store, or it has lost the rows or the index
local call, rows = redis.call, KEYS[2]
if call('GET', KEYS[1]) ~= ARGV[1] or call('EXISTS', rows, KEYS[3]) == 1 then
  return STORE_CHANGED
end
local size = call('ZCARD', rows)
local ranges = math.min(tonumber(ARGV[2]), size)
local ends = {}
for number = 1, ranges do
  local rank = math.floor(number * size / ranges) - 1
  ends[number] = call('ZRANGE', rows, rank, rank, 'WITHSCORES')[2]
end
return ends
