#!lua
--@include _outcome.lua
-- Concludes a change that was worked out from the record `old`, if that still is the current one (compare-and-set).
-- `verdict` is the outcome to conclude with: K and the new record, or the reason why the change is refused.
-- KEYS: rows, index, request, index of the owner
-- ARGV: name, old (empty: there was none), verdict, fingerprint, owner (empty: these records have none)
local rows, index, request_key, owner_index = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local name, old, verdict, fingerprint, owner = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local recorded = recorded_outcome(request_key, fingerprint)
if recorded then
  return recorded
end
local id = redis.call('HGET', index, name)
if not id then
  return conclude(request_key, fingerprint, missing(owner_index, owner))
end
if old == '' or tonumber(redis.call('ZSCORE', rows, old) or -1) ~= tonumber(id) then
  return 'C' .. redis.call('ZRANGE', rows, id, id, 'BYSCORE')[1]
end
if verdict:sub(1, 1) == 'K' then
  redis.call('ZREM', rows, old)
  redis.call('ZADD', rows, id, verdict:sub(2))
end
return conclude(request_key, fingerprint, verdict)
