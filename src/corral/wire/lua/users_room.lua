--[[
  Says whether so many more of a user's jobs may wait; refuses the transaction that it stands in when not.
  Input:
    KEYS[1] key that says that the transaction is refused
    ARGV[1] base
    ARGV[2] user
    ARGV[3] how many may wait
    ARGV[4] how many more there are to be
    ARGV[5] the transaction's token
  Output:
    -1 when there is room, else how many wait
]]
local most, more = tonumber(ARGV[3]), tonumber(ARGV[4])
local waiting = rare().recount(ARGV[2], most - more)
if waiting + more <= most then return -1 end
call('SET', KEYS[1], ARGV[5], 'PX', 60000)
return waiting
