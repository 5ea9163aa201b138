#!lua
--@include _store.lua
--@include _outcome.lua
-- Concludes a change that was worked out from the record `old`, if that still is the current one (compare-and-set).
-- `verdict` is the outcome to conclude with: K and the new record, or the reason why the change is refused.
-- KEYS: store id, layout, rows, index, request, index of the owner
-- ARGV: expected store id, name, old (empty: there was none), verdict, fingerprint, owner (empty: these records have none)
local rows, index, request_key, owner_index = KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local name, old, verdict, fingerprint, owner = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

if is_other_store(KEYS[1], KEYS[2], ARGV[1]) then
  return 'S'
end
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
