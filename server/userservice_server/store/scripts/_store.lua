-- Shared by the scripts that write.

-- Returns whether this is not the store that the service expects, or has lost a key that every store has.
local function is_other_store(store_id_key, layout_key, expected_id)
  return redis.call('GET', store_id_key) ~= expected_id or redis.call('EXISTS', layout_key) == 0
end
