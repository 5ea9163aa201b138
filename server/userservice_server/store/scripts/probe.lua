#!lua flags=allow-oom
-- Checks that the server executes scripts that may write; changes nothing. Because the flags do not say no-writes, a
-- server that rejects writes rejects this script too: a replica (READONLY), a primary without enough replicas
-- (NOREPLICAS), a server whose disk is full (MISCONF). A full store (OOM) executes the script: reads and deletes are
-- still possible there.
--
-- KEYS[1]  layout
-- KEYS[2]  last id of the partition, if a WAIT follows: the script then writes the same value again, because WAIT waits
--          only for the writes of its own connection
--
-- Returns:
--   1  the layout exists
--   0  the layout does not exist
if KEYS[2] and redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('SET', KEYS[2], redis.call('GET', KEYS[2]))
end
return redis.call('HEXISTS', KEYS[1], 'version')
