-- Shared by the scripts that write: do they run on the store that the service expects?
-- Returns whether this is another store, or one that has lost a key that every store has.
local function is_other_store(store_id_key, layout_key, expected_id)
  return redis.call('GET', store_id_key) ~= expected_id or redis.call('EXISTS', layout_key) == 0
end
