#!lua flags=allow-oom
-- Checks that the server executes scripts that may write; writes nothing. Because the flags do not say no-writes, a
-- server that rejects writes rejects this script too: a replica (READONLY), a primary without enough replicas
-- (NOREPLICAS), a server whose disk is full (MISCONF). A full store (OOM) executes the script: reads and deletes are
-- still possible there.
--
-- KEYS[1]  layout
--
-- Returns:
--   1  the layout exists
--   0  the layout does not exist
return redis.call('HEXISTS', KEYS[1], 'version')
