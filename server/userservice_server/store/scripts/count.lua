#!lua
--@include _store.lua
--@constants MAX_ID
-- Counts the sessions of some users of an older store, whose sessions are not counted yet: a step of the count.
--
-- Users are counted in the order of their ids. Ids only grow, so no user can be added between users that exist. A user
-- that was deleted since the server has read it has no sessions, and its user_id may be in use by a later user.
--
-- KEYS[1]   store id of the partition
-- KEYS[2]   layout
-- KEYS[3]   rows of the users
-- KEYS[4]   index of the users
-- KEYS[5]   session count
-- KEYS[6…]  rows of the sessions of the next users, in the order of their ids
--
-- ARGV[1]   expected store id
-- ARGV[2]   the id up to which sessions are counted; 0 at the start
-- ARGV[3…]  for each of the next users: user_id and id; none if there are no more users
--
-- Returns:
--   1  the sessions of these users are counted; without users, the count is complete
--   0  nothing was changed: another server has counted meanwhile, users were added, or the store was replaced
local rows, index, count_key = KEYS[3], KEYS[4], KEYS[5]
local FIRST_TABLE, FIRST_USER = 6, 3

if is_changed_store(KEYS[1], KEYS[2], rows, index, ARGV[1]) then
  return 0
end
local covered, added = unpack(redis.call('HMGET', count_key, 'covered', 'added'))
if (covered or '0') ~= ARGV[2] then
  return 0
end
local last = ARGV[#ARGV]
if #ARGV < FIRST_USER then
  if #redis.call('ZRANGE', rows, '(' .. ARGV[2], '+inf', 'BYSCORE', 'LIMIT', 0, 1) > 0 then
    return 0
  end
  last = string.format('%.0f', MAX_ID)
end
added = tonumber(added or 0)
for position = FIRST_TABLE, #KEYS do
  local argument = FIRST_USER + (position - FIRST_TABLE) * 2
  if redis.call('HGET', index, ARGV[argument]) == ARGV[argument + 1] then
    added = added + redis.call('ZCARD', KEYS[position])
  end
end
redis.call('HSET', count_key, 'covered', last, 'added', string.format('%.0f', added))
if not covered then
  redis.call('HSET', count_key, 'removed', '0')
end
return 1
