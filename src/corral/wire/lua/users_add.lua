--[[
  Adds a job to a queue that is shared by its users: BullMQ's own script, which stands above as `bullmq()`, runs
  between two parts of ours.
  Input:
    KEYS and ARGV[1..3] as BullMQ's script takes them
    ARGV[4] base
    ARGV[5] user, "" for nobody's
    ARGV[6] the job's priority, below 1024
    ARGV[7] "now", "later" (delayed), "parent" (waits for children), or "plain" (of another queue in the same flow)
    ARGV[8] how many of this user's jobs may wait; 0 for any number
    ARGV[9] how many may be active; 0 for any number
    ARGV[10] now, in ms
    ARGV[11] "1" when the job has an id of its own or is deduplicated
    ARGV[12] key that says that this transaction is refused, or ""
    ARGV[13] the transaction's token
  Output:
    BullMQ's, or {"refused", how many wait}
]]
local user, priority, kind = ARGV[5], tonumber(ARGV[6]), ARGV[7]
local most_waiting, most_active, now, named = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10]), ARGV[11] == '1'
if ARGV[12] ~= '' and call('GET', ARGV[12]) == ARGV[13] then return {'refused', 0} end

local custom, existed = '', false
if named then
  local first, options = cmsgpack.unpack(ARGV[1]), cmsgpack.unpack(ARGV[3])
  custom = first[2]
  existed = (custom ~= '' and call('EXISTS', base .. custom) == 1)
    or (options['de'] and call('EXISTS', first[9]) == 1)
end
if most_waiting > 0 and user ~= '' and not existed then
  local waiting = recount(user, most_waiting - 1)
  if waiting >= most_waiting then return {'refused', waiting} end
end

local now_slot
if kind == 'now' then
  local front = call('ZRANGE', prioritized, 0, 0, 'WITHSCORES')
  local slot = front[2] and math.floor(tonumber(front[2]) / SPAN)
  if slot and (slot < FIRST or slot >= BEHIND) then
    slot = front_slot()
    if adopt(clock_at(slot), 100, most_active, now) > 0 then slot = front_slot() end
  end
  now_slot = clock_at(slot)
end

local reply = bullmq()
if type(reply) ~= 'string' or kind == 'plain' then return reply end
if named then
  -- The job that was there already, or the one that this one is a duplicate of.
  if custom ~= '' then
    if existed or reply ~= custom then return reply end
  elseif reply ~= call('GET', base .. 'id') then
    return reply
  end
end

local id = reply
if most_waiting > 0 and user ~= '' then
  call('ZADD', base .. 'users:waiting:' .. user, now, id)
  call('ZADD', base .. 'users:seen', 'NX', now, user)
end
if kind == 'now' then
  if most_active > 0 and user ~= '' and (call('EXISTS', base .. 'users:held:' .. user) == 1
      or not take_place(user, id, most_active)) then
    call('ZREM', prioritized, id)
    hold(id, user, priority, now)
    let_go(user, most_active, now_slot)
  else
    if most_active > 0 then call('HSET', base .. id, 'corral:user', user) end
    now_slot = place(id, user, priority, now_slot)
  end
elseif kind == 'later' then
  local soon = base .. 'users:soon'
  call('ZREMRANGEBYSCORE', soon, '-inf', now)
  if call('ZSCORE', soon, user) then
    -- One at a time may go ahead when it is due: many would hold up everybody else.
    call('HSET', base .. id, 'corral:user', user, 'corral:priority', priority, 'priority', BEHIND)
  else
    call('HSET', base .. id, 'corral:user', user)
    local due = call('ZSCORE', delayed, id)
    if due then call('ZADD', soon, math.floor(tonumber(due) / 4096), user) end
  end
else
  call('HSET', base .. id, 'corral:user', user)
end
if kind == 'now' and tonumber(call('GET', base .. 'pc') or 0) % 8 == 0 then
  tidy(now_slot, now)
  call('ZREMRANGEBYSCORE', line_of(user), priority * ROW, '(' .. (priority * ROW + now_slot))
end
return reply
