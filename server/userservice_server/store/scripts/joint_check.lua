#!lua flags=no-writes
--@include _joint.lua
--@constants STORE_CHANGED
-- Checks that the store is the expected one, after ranges of its partitions were read.
--
-- KEYS     rows and index of each partition, then the store id of each partition
--
-- ARGV[1]  expected store id
--
-- Returns:
--   1              the store is the expected one
--   STORE_CHANGED  this is another store, or it has lost the rows or the index of a partition
return is_changed_joint_store(ARGV[1]) and STORE_CHANGED or 1
