#!lua flags=allow-oom
-- Returns 1 if the layout key exists, else 0; writes nothing. Because the flags do not say no-writes, a server that
-- rejects writes rejects this script too: a replica (READONLY), a primary without enough replicas (NOREPLICAS), a server
-- whose disk is full (MISCONF). A full store (OOM) executes it: reads and deletes are still possible there.
-- KEYS: layout
-- ARGV: none
return redis.call('HEXISTS', KEYS[1], 'version')
