#!lua flags=no-writes
-- Returns the number of records of several tables of one server, and the first or the last record.
--
-- KEYS     rows of each table
--
-- ARGV[1]  last for the record with the largest id, first for the record with the smallest id
-- ARGV[2]  the largest id of the last record; empty if it has no limit
--
-- Returns:
--   {size, record}  the record is empty if there is none within the limit
local call, is_last, limit = redis.call, ARGV[1] == 'last', ARGV[2]
local rank = is_last and -1 or 0
local size, record, best = 0, '', nil
for position = 1, #KEYS do
  local rows, found = KEYS[position], nil
  size = size + call('ZCARD', rows)
  if limit == '' then -- with reads by rank, the script takes 20 % less time than with reads by id
    found = call('ZRANGE', rows, rank, rank, 'WITHSCORES')
  else
    found = call('ZRANGE', rows, limit, '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, 1, 'WITHSCORES')
  end
  local id = tonumber(found[2])
  if id and (not best or (id > best) == is_last) then
    record, best = found[1], id
  end
end
return { size, record }
