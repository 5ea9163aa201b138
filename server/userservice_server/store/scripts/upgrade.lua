#!lua flags=allow-oom
--@include _ids.lua
--@include _settle.lua
-- Identifies the store if there is a layout. Also runs in a full store, because the service must open it.
-- _settle.lua describes KEYS, ARGV and results.
