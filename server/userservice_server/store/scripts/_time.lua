--@constants MICROSECONDS_A_SECOND
-- Shared by the scripts that compare times.

-- Returns the present time by the store's clock, in microseconds.
local function present_time()
  local now = redis.call('TIME')
  return now[1] * MICROSECONDS_A_SECOND + now[2]
end
