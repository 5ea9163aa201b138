#!lua
--@include _ids.lua
--@include _settle.lua
-- Creates or identifies the store, if there is no layout. Redis rejects this script if memory is full (no allow-oom):
-- a new store could not add anything.
-- _settle.lua describes KEYS, ARGV and results.
