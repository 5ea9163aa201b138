#!lua flags=allow-oom
-- Writes the version of the layout that servers without feed and e-mail index accept, if the store has neither.
--
-- KEYS[1]  layout
--
-- ARGV[1]  the version
--
-- Returns:
--   1  the version was written
--   0  the store has a feed or an e-mail index
local found = redis.call('HMGET', KEYS[1], 'feed', 'email_index')
if found[1] or found[2] then
  return 0
end
redis.call('HSET', KEYS[1], 'version', ARGV[1])
return 1
