#!lua flags=allow-oom
--@include _store.lua
--@include _outcome.lua
-- Removes a record and what it owns. Allowed when memory is full: it is the way out of that.
-- KEYS: store id, layout, rows, index, request, then the index of the owner or, where records have no owner, the keys of what they own
-- ARGV: expected store id, name, old (empty: any, or none if the verdict is not K), verdict (K: remove; else the outcome), fingerprint, owner (empty: these records have none)
local rows, index, request_key = KEYS[3], KEYS[4], KEYS[5]
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
  return conclude(request_key, fingerprint, missing(KEYS[6], owner))
end
if old == '' and verdict ~= 'K' then
  return 'C' -- it was not there when the verdict was found, and now it is
end
if old ~= '' and tonumber(redis.call('ZSCORE', rows, old) or -1) ~= tonumber(id) then
  return 'C'
end
if verdict == 'K' then
  redis.call('ZREMRANGEBYSCORE', rows, id, id)
  redis.call('HDEL', index, name)
  if owner == '' then
    redis.call('UNLINK', unpack(KEYS, 6))
  end
end
return conclude(request_key, fingerprint, verdict)
