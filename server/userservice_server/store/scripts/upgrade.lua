#!lua flags=allow-oom
--@include _ids.lua
--@include _settle.lua
-- Finds out which store this is, if there is a layout. Allowed if memory is full: the service must open a full store, too.
-- _settle.lua describes KEYS, ARGV and results.
