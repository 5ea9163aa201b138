-- Keeps the number of sessions of a partition. Shared by add.lua and delete.lua.
--
-- The key is a hash: `added` and `removed` are the numbers of sessions that were added and removed since the counting
-- started, and `covered` is a user's id. Sessions of users up to this id are counted; those of later users are not
-- counted yet (see count.lua). In a store that was created with the count, `covered` is MAX_ID. In an older store
-- without the key, nothing is counted until a server starts the count.

-- Adds to one of the fields, if the sessions of the user with this id are counted. Must be called before the script
-- writes anything else, because a key of another type ends the script.
local function count_sessions(count_key, id_of_user, field, number)
  local found = redis.call('HMGET', count_key, 'covered', field)
  local covered, before, user = tonumber(found[1] or ''), tonumber(found[2] or ''), tonumber(id_of_user or '')
  if covered and before and user and user <= covered then
    redis.call('HSET', count_key, field, string.format('%.0f', before + number))
  end
end
