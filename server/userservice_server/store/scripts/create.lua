#!lua
--@include _ids.lua
--@include _settle.lua
-- Finds out which store this is, if there is no layout. Not allowed if memory is full: nothing could be added.
-- _settle.lua describes KEYS, ARGV and results.
