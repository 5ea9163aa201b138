-- Checks several partitions of one server. Shared by the scripts that read them.
--
-- KEYS  rows and index of each partition, then the store id of each partition

-- Returns whether this is another store than the one with this id, or has lost the rows or the index of a partition.
local function is_changed_joint_store(expected)
  local partitions = #KEYS / 3
  for partition = 1, partitions do
    if redis.call('GET', KEYS[2 * partitions + partition]) ~= expected then
      return true
    end
  end
  if redis.call('EXISTS', unpack(KEYS, 1, 2 * partitions)) == 2 * partitions then
    return false
  end
  for partition = 1, partitions do
    if redis.call('EXISTS', KEYS[2 * partition - 1], KEYS[2 * partition]) == 1 then
      return true
    end
  end
  return false
end
