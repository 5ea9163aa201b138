--@constants EPOCH_SECONDS TICKS_A_SECOND TICK_MICROSECONDS PARTITIONS MAX_ID
-- Shared by the scripts that assign ids; wire/ids.py describes the layout of an id.

-- Returns the id of the present time in partition 0, by the store's clock; 0 if the clock is before 2025.
local function id_of_now()
  local now = redis.call('TIME')
  local ticks = (now[1] - EPOCH_SECONDS) * TICKS_A_SECOND + math.floor(now[2] / TICK_MICROSECONDS)
  return math.max(ticks, 0) * PARTITIONS
end
