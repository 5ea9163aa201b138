-- Checks the store before a script writes. Shared by add.lua, replace.lua and delete.lua.

-- Returns true if the store is not the one that the server expects, or has lost a required key. Scripts write rows and
-- index together: if only one of the two exists, data was lost, and a write would hide the loss by creating the other.
local function is_changed_store(store_id_key, layout_key, rows, index, expected_id)
  return redis.call('GET', store_id_key) ~= expected_id or redis.call('EXISTS', layout_key) == 0
    or redis.call('EXISTS', rows, index) == 1
end
