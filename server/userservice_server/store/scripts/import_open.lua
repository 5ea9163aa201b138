#!lua
--@include _store.lua
--@include _import.lua
--@constants EXISTS STORE_CHANGED REQUEST_ID_REUSED
-- Opens an import in a partition: creates its state, or reads it.
--
-- KEYS[1]  store id of the partition
-- KEYS[2]  layout
-- KEYS[3]  rows of the users
-- KEYS[4]  index of the users
-- KEYS[5]  state of the import
--
-- ARGV[1]  expected store id
-- ARGV[2]  mode: the options of the import
-- ARGV[3]  1 if the import restores users with their ids, which a new import does only in an empty store
--
-- Returns:
--   {numbers of the state}  the import is open
--   EXISTS                  the import would restore users, and the store has users
--   REQUEST_ID_REUSED       there is an import with this import_id and another mode
--   STORE_CHANGED           this is another store, or it has lost keys
local rows, state_key, mode, restores = KEYS[3], KEYS[5], ARGV[2], ARGV[3] == '1'

if is_changed_store(KEYS[1], KEYS[2], rows, KEYS[4], ARGV[1]) then
  return STORE_CHANGED
end
local state = redis.call('GET', state_key)
if state then
  local numbers, known_mode = parsed_state(state)
  if known_mode ~= mode then
    return REQUEST_ID_REUSED
  end
  return numbers
end
if restores and redis.call('EXISTS', rows) == 1 then
  return EXISTS
end
write_state(state_key, { 0, 0, 0, 0, 0, 0 }, mode)
return { 0, 0, 0, 0, 0, 0 }
