--[[
  Gives the place of a job that has ended to the user's next one.
  Input:
    KEYS[1] users:next
    ARGV[1] base
    ARGV[2] user
    ARGV[3] id
    ARGV[4] how many of the user's jobs may be active
  Output:
    how many jobs were let go
]]
local user, id = ARGV[2], ARGV[3]
local job = call('HMGET', base .. id, 'timestamp', 'finishedOn')
if job[1] and not job[2] then return 0 end -- it is to run again, here or elsewhere, and keeps its place
call('SREM', base .. 'users:places:' .. user, id)
if job[1] then call('HDEL', base .. id, 'corral:place') end
if call('EXISTS', base .. 'users:held:' .. user) == 0 then return 0 end
return rare().let_go(user, tonumber(ARGV[4]))
