#!lua flags=no-writes
-- Returns the first command that the scripts need and the user of the connection may not run, or an empty string. A
-- script that stops at a denied command has already done its earlier writes: an update would remove the old record and
-- not add the new one.
-- KEYS: none, so that every node of a cluster executes the script
-- ARGV[1]: any key with the prefix
-- ARGV[2]: the name of the channel of a feed, if the feed is on; empty if it is off
-- ARGV[3], …: commands without keys that the service sends in addition to the scripts
local key = ARGV[1]
local needed = {
  { 'EXISTS', key }, { 'GET', key }, { 'PEXPIRE', key, 1 }, { 'SET', key, '' }, { 'TIME' }, { 'UNLINK', key },
  { 'HDEL', key, '' }, { 'HEXISTS', key, '' }, { 'HGET', key, '' }, { 'HMGET', key, '' }, { 'HSET', key, '', '' },
  { 'ZADD', key, 0, '' }, { 'ZCARD', key }, { 'ZMSCORE', key, '' }, { 'ZRANK', key, '' }, { 'ZRANGE', key, 0, 0 }, { 'ZREM', key, '' },
  { 'ZREMRANGEBYSCORE', key, 0, 0 }, { 'ZSCORE', key, '' },
}
if ARGV[2] ~= '' then
  local channel = ARGV[2]
  for _, command in ipairs({
    { 'XADD', key, '*', '', '' }, { 'XTRIM', key, 'MAXLEN', 0 }, { 'XRANGE', key, '-', '+' },
    { 'XREVRANGE', key, '+', '-' }, { 'HGETALL', key }, { 'SPUBLISH', channel, '' },
  }) do
    needed[#needed + 1] = command
  end
end
for position = 3, #ARGV do
  needed[#needed + 1] = { ARGV[position] }
end
for _, command in ipairs(needed) do
  if not redis.acl_check_cmd(unpack(command)) then
    return command[1]
  end
end
return ''
