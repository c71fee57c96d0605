--[[
  Adds a job to a queue that is shared by its users: BullMQ's own script, which stands above as `bullmq()`, runs
  between two parts of ours. It calls `slot_of` for the priority with which it puts a job that is really added into
  `prioritized`.
  Input:
    KEYS and ARGV[1..3] as BullMQ's script takes them
    ARGV[4] base
    ARGV[5] user, "" for nobody's
    ARGV[6] the job's priority, below 1024
    ARGV[7] now, in ms
    and, where one of these is not the first that it can be:
    ARGV[8] "now", "later" (delayed), "parent" (waits for children), or "plain" (of another queue in the same flow)
    ARGV[9] how many of this user's jobs may wait; "0" for any number
    ARGV[10] how many may be active; "0" for any number
    ARGV[11] "0", or "1" when the job has an id of its own or is deduplicated
    ARGV[12] "", or the key that says that this transaction is refused
    ARGV[13] the transaction's token
  Output:
    BullMQ's, or {"refused", how many wait}
]]
local user, priority, kind = ARGV[5], tonumber(ARGV[6]), ARGV[8] or 'now'
local bounds_waiting, bounds_active, named = false, false, false
if ARGV[8] then
  bounds_waiting, bounds_active = ARGV[9] ~= '0' and user ~= '', ARGV[10] ~= '0' and user ~= ''
  named = ARGV[11] == '1'
  if ARGV[12] ~= '' and call('GET', ARGV[12]) == ARGV[13] then return {'refused', 0} end
end

local custom, existed = '', false
if named then
  local first, options = cmsgpack.unpack(ARGV[1]), cmsgpack.unpack(ARGV[3])
  custom = first[2]
  existed = (custom ~= '' and call('EXISTS', base .. custom) == 1)
    or (options['de'] and call('EXISTS', first[9]) == 1)
end
if bounds_waiting and not existed then
  local most = tonumber(ARGV[9])
  local waiting = rare().recount(user, most - 1)
  if waiting >= most then return {'refused', waiting} end
end

local added = false
if kind == 'now' then
  local first = call('ZRANGE', prioritized, 0, 0, 'WITHSCORES')
  local front = first[2] and math.floor(tonumber(first[2]) / SPAN)
  if front and (front < FIRST or front >= BEHIND) then
    rare().adopt(100, tonumber(ARGV[10] or 0), tonumber(ARGV[7]))
    front = rare().front()
  end
  slot_of = function(id)
    added = true
    return bounds_active and priority or slot_for(id, user, priority, front)
  end
end

local id = bullmq()
if type(id) ~= 'string' or kind == 'plain' then return id end
if kind ~= 'now' then
  -- Not the job that was there already, nor the one that this one is a duplicate of.
  added = not named or (not existed and id == (custom ~= '' and custom or call('GET', base .. 'id')))
end
if not added then return id end

if bounds_waiting then
  call('ZADD', base .. 'users:waiting:' .. user, ARGV[7], id)
  call('ZADD', base .. 'users:seen', 'NX', ARGV[7], user)
end
if kind == 'now' then
  if bounds_active then
    -- Behind those that are held already; then the first of all for which there is a place.
    local it = rare()
    call('ZREM', prioritized, id)
    it.hold(id, user, priority, tonumber(ARGV[7]))
    it.let_go(user, tonumber(ARGV[10] or 0))
  end
  if string.sub(id, -2) == '00' then rare().tidy(rare().front(), tonumber(ARGV[7])) end
elseif kind == 'later' then
  local soon = base .. 'users:soon'
  call('ZREMRANGEBYSCORE', soon, '-inf', tonumber(ARGV[7]) - 1000)
  if call('ZSCORE', soon, user) then
    -- One in a second may go ahead when it is due: many would hold up everybody else.
    call('HSET', base .. id, 'corral:user', user, 'corral:priority', priority, 'priority', BEHIND)
  else
    call('HSET', base .. id, 'corral:user', user)
    local due = call('ZSCORE', base .. 'delayed', id)
    if due then call('ZADD', soon, math.floor(tonumber(due) / 4096), user) end
  end
else
  call('HSET', base .. id, 'corral:user', user)
end
return id
