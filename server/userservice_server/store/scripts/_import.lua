--@constants IMPORT_TTL_MS
-- The state of an import in a partition. Shared by the scripts of imports.
--
-- The state is a text of six numbers: the offset up to which the rows of the partition are applied, and the numbers of
-- rows that were added, merged, replaced, skipped and failed. The mode of the import follows on the next line.
local STATE = '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+)\n(.*)$'

-- Returns the six numbers of a state, and its mode.
local function parsed_state(state)
  local offset, added, merged, replaced, skipped, failed, mode = string.match(state, STATE)
  local numbers = { offset, added, merged, replaced, skipped, failed }
  for position = 1, #numbers do
    numbers[position] = tonumber(numbers[position])
  end
  return numbers, mode
end

-- Writes a state. It expires some days after the last write.
local function write_state(state_key, numbers, mode)
  local texts = {}
  for position = 1, #numbers do
    texts[position] = string.format('%.0f', numbers[position])
  end
  redis.call('SET', state_key, table.concat(texts, ' ') .. '\n' .. mode, 'PX', IMPORT_TTL_MS)
end
