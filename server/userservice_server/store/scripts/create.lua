#!lua
--@include _ids.lua
--@include _settle.lua
-- Settles which store this is, where there is no layout. Not allowed when memory is full: nothing could be added.
-- KEYS, ARGV, outcomes: see _settle.lua
