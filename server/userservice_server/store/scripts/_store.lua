-- Shared by the scripts that write.

-- Returns whether this is not the store that the server expects, or a required key is missing. Scripts write rows and
-- index together: if only one of them exists, data was lost, and a write would hide the loss by creating the other one.
local function is_other_store(store_id_key, layout_key, rows, index, expected_id)
  return redis.call('GET', store_id_key) ~= expected_id or redis.call('EXISTS', layout_key) == 0
    or redis.call('EXISTS', rows, index) == 1
end
