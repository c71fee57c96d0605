--[[
  Asks for a place for a job that a worker has just claimed; without one, it is held, as if it had not been claimed.
  Input:
    KEYS[1] active
    KEYS[2] stalled
    ARGV[1] base
    ARGV[2] user
    ARGV[3] id
    ARGV[4] how many of the user's jobs may be active
    ARGV[5] the lease's token
    ARGV[6] now, in ms
  Output:
    1 when it may run, 0 when it is held, -2 when the lease is not ours
]]
local user, id = ARGV[2], ARGV[3]
local job = base .. id
if call('GET', job .. ':lock') ~= ARGV[5] then return -2 end
local it = rare()
if it.take_place(user, id, tonumber(ARGV[4])) then return 1 end
call('LREM', KEYS[1], 1, id)
call('DEL', job .. ':lock')
call('SREM', KEYS[2], id)
call('HDEL', job, 'processedOn', 'pb')
call('HINCRBY', job, 'ats', -1)
local fields = call('HMGET', job, 'priority', 'corral:priority')
it.hold(id, user, math.min(tonumber(fields[2] or fields[1]) or 0, FIRST - 1), tonumber(ARGV[6]))
return 0
