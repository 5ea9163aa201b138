#!lua
--@constants STORE_CHANGED
-- Starts to build the e-mail index of a partition, or continues. Afterwards, the scripts that write users maintain the
-- index.
--
-- KEYS[1]  store id of the partition
-- KEYS[2]  layout of the partition
-- KEYS[3]  e-mail index: users by the keys of their addresses
-- KEYS[4]  e-mail index: users of shared keys
--
-- ARGV[1]  expected store id
-- ARGV[2]  version of Unicode
-- ARGV[3]  1: build the index again, even if it is complete
--
-- Returns:
--   filling        the index must be filled
--   complete       the index is complete
--   STORE_CHANGED  this is another store; nothing was written
local layout = KEYS[2]

if redis.call('GET', KEYS[1]) ~= ARGV[1] or redis.call('EXISTS', layout) == 0 then
  return STORE_CHANGED
end
local state, version = unpack(redis.call('HMGET', layout, 'email_index', 'email_unicode'))
local is_continued = state == 'filling' or (state == 'complete' and ARGV[3] ~= '1')
if is_continued and version == ARGV[2] then
  return state
end
redis.call('UNLINK', KEYS[3], KEYS[4])
redis.call('HSET', layout, 'email_index', 'filling', 'email_unicode', ARGV[2], 'email_done', '0')
return 'filling'
