package main

import "github.com/redis/rueidis"

const (
	records = "records" // hash: user_id -> record
	order   = "order"   // sorted set of all user_ids by id
	lastID  = "last_id"
)

// addScript writes a new user with the next id. It returns the record, or nil if the user exists.
//
// KEYS: records, order, last_id. ARGV: user_id, head and tail of the record.
var addScript = rueidis.NewLuaScript(`
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then
  return false
end
local id = redis.call('INCR', KEYS[3])
local rest, bytes = id, {}
for i = 1, 7 do
  bytes[i] = string.char(0x80 + rest % 0x80)
  rest = math.floor(rest / 0x80)
end
local record = ARGV[2] .. table.concat(bytes) .. string.char(rest) .. ARGV[3]
redis.call('HSET', KEYS[1], ARGV[1], record)
redis.call('ZADD', KEYS[2], id, ARGV[1])
return record`)

// replaceScript replaces a record if its content is still the old record. It returns whether it replaced the record.
//
// KEYS: records. ARGV: user_id, old record, new record.
var replaceScript = rueidis.NewLuaScript(`
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1`)
