--[[
  One round of a queue's usher: gives slots to jobs that have none, and places to held ones.
  Input:
    KEYS[1] users:next
    ARGV[1] base
    ARGV[2] how many of a user's jobs may be active; 0 for any number
    ARGV[3] how many jobs to adopt at most, of each kind
    ARGV[4] now, in ms
  Output:
    {adopted, users with held jobs, jobs that wait}
]]
local it, most_active, now = rare(), tonumber(ARGV[2]), tonumber(ARGV[4])
local adopted = it.adopt(tonumber(ARGV[3]), most_active, now)
local holding = base .. 'users:holding'
for _, user in ipairs(call('ZRANGE', holding, 0, 99)) do
  -- Without a bound any more: all of them.
  it.let_go(user, most_active > 0 and most_active or 1000000000)
  -- To the end of the turn, so that more than a hundred such users have theirs.
  call('ZADD', holding, 'XX', now, user)
end
it.tidy(it.front(), now)
return {adopted, call('ZCARD', holding), call('ZCARD', prioritized) + call('LLEN', base .. 'wait')}
