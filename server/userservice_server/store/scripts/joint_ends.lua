#!lua flags=no-writes
-- Returns the number of records of several tables of one server, and the first or the last record.
--
-- KEYS     rows of each table
--
-- ARGV[1]  REV for the record with the largest id, otherwise empty
-- ARGV[2]  the bound of this id, as ZRANGE BYSCORE takes it
--
-- Returns:
--   {size, record}  the record is empty if there is none within the bound
local call, is_last, bound = redis.call, ARGV[1] == 'REV', ARGV[2]
local size, record, best = 0, '', nil
for position = 1, #KEYS do
  local rows, found = KEYS[position], nil
  size = size + call('ZCARD', rows)
  if is_last then
    found = call('ZRANGE', rows, bound, '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, 1, 'WITHSCORES')
  else
    found = call('ZRANGE', rows, bound, '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')
  end
  local id = tonumber(found[2])
  if id and (not best or (id > best) == is_last) then
    record, best = found[1], id
  end
end
return { size, record }
