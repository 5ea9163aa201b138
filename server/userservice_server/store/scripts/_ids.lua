-- Shared by the scripts that give out ids. domain/ids.py has the same numbers.
-- An id is 47 bits of time in units of 25 microseconds since 2025-01-01 and 6 bits of partition: 53 bits, which a
-- Lua number and a JavaScript number hold exactly, until the year 2136.
local EPOCH_SECONDS, TICKS_A_SECOND, TICK_MICROSECONDS, PARTITIONS = 1735689600, 40000, 25, 64
local MAX_ID = 9007199254740991 -- 2^53 - 1

-- The id of this moment in partition 0 by the store's clock; 0 while the clock is before 2025.
local function id_of_now()
  local now = redis.call('TIME')
  local ticks = (now[1] - EPOCH_SECONDS) * TICKS_A_SECOND + math.floor(now[2] / TICK_MICROSECONDS)
  return math.max(ticks, 0) * PARTITIONS
end
