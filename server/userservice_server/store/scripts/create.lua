#!lua
--@include _ids.lua
--@include _settle.lua
-- Identifies the store if there is no layout. Does not run in a full store, where nothing could be added.
-- _settle.lua describes KEYS, ARGV and results.
