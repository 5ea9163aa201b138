#!lua
--@include _emails.lua
--@constants STORE_CHANGED
-- Adds the next users of a partition to the e-mail index: one step of building the index. Several processes can build
-- the index together, because a step applies only if the layout has the progress that the process has read.
--
-- KEYS[1]  store id of the partition
-- KEYS[2]  layout of the partition
-- KEYS[3]  rows of the users
-- KEYS[4]  e-mail index: users by the keys of their addresses
-- KEYS[5]  e-mail index: users of shared keys
-- KEYS[6]  feed of the partition; not used (_emails.lua expects it)
--
-- ARGV[1]  expected store id
-- ARGV[2]  version of Unicode
-- ARGV[3]  expected progress: the id up to which the index is filled
-- ARGV[4]  progress after this step; empty if there are no more users, and the index is therefore complete
-- then, for each user: id, key of its e-mail address ('' without an address), and SHA-1 of its record
--
-- Returns:
--   a list         state, Unicode version and progress after this step, or, if nothing was written, those in the layout
--   STORE_CHANGED  this is another store; nothing was written
local call, layout, rows = redis.call, KEYS[2], KEYS[3]
local FIRST_USER, USER_ARGUMENTS = 5, 3

if call('GET', KEYS[1]) ~= ARGV[1] or call('EXISTS', layout) == 0 then
  return STORE_CHANGED
end
local function progress()
  local found = call('HMGET', layout, 'email_index', 'email_unicode', 'email_done')
  return { found[1] or '', found[2] or '', found[3] or '0' }
end
local found = progress()
if found[1] ~= 'filling' or found[2] ~= ARGV[2] or found[3] ~= ARGV[3] then
  return found
end
for position = FIRST_USER, #ARGV, USER_ARGUMENTS do
  local id, email_key, digest = ARGV[position], ARGV[position + 1], ARGV[position + 2]
  local record = call('ZRANGE', rows, id, id, 'BYSCORE')[1]
  -- A user that was changed since the process has read it is in the index: the script that changed it added it.
  if email_key ~= '' and record and redis.sha1hex(record) == digest then
    add_email(id, email_key, user_of(email_key))
  end
end
if ARGV[4] == '' then
  call('HSET', layout, 'email_index', 'complete')
  call('HDEL', layout, 'email_done')
else
  call('HSET', layout, 'email_done', ARGV[4])
end
return progress()
