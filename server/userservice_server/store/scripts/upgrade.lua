#!lua flags=allow-oom
--@include _ids.lua
--@include _settle.lua
-- Settles which store this is, where there is a layout. Allowed when memory is full: a full store must open, too.
-- KEYS, ARGV, outcomes: see _settle.lua
