--[[
  What every script of a queue that is shared by its users has in common. `base` ("prefix:queue:") is given above it.

  The order lives in BullMQ's own `prioritized` ZSET, whose score is priority * 2^32 + counter, so that a worker in any
  language takes the jobs in it. The priority of a waiting job is its slot: a job's start in start-time fair queueing
  (Goyal, Vin, Cheng 1996) with every job of cost 1. Priorities below FIRST are those that jobs carry in their hash, and
  with which BullMQ itself puts them there when they are retried or due: such a job has no slot yet, and goes ahead.
  One that carries BEHIND goes last. `adopt` gives them slots.

  Keys, all under `base`, so that a Cluster has them in the queue's slot:
    users:clock           ZSET "#" -> the lowest slot that waits; "@user" -> the slot of this user's next job
    users:line:<user>     ZSET id -> priority * 2^21 + slot: the user's waiting jobs in their order
    users:soon            ZSET user -> when the one delayed job that may go ahead is due, in ms
    users:waiting:<user>  ZSET id -> added ms: jobs that have not started (only where their number is limited)
    users:seen            ZSET user -> when that set was last compared with the jobs, in ms
    users:places:<user>   SET of ids that may be active (only where that number is limited; so the next two)
    users:held:<user>     ZSET id -> priority * 2^32 + counter: jobs that wait for a place, kept in `delayed`
    users:holding         ZSET user with held jobs -> since when, in ms
  and in a job's hash corral:user, corral:priority, corral:place.
]]
local call = redis.call
local SPAN = 4294967296
local FIRST, LAST, BEHIND = 1024, 2097150, 2097151
local ROW = 2097152
local CHAIN = 64
local HELD_UNTIL = 2190000000000 * 4096
-- FIRST * SPAN and BEHIND * SPAN, as bounds that exclude: Lua would round the longer one.
local BELOW_FIRST, BELOW_BEHIND = '(4398046511104', '(9007194959773696'
local prioritized, delayed, clock = base .. 'prioritized', base .. 'delayed', base .. 'users:clock'

local function line_of(user) return base .. 'users:line:' .. user end

-- The clock at the given front of `prioritized`: never less than it was.
local function clock_at(slot)
  local known = tonumber(call('ZSCORE', clock, '#')) or FIRST
  if not slot then
    -- Nobody waits: nobody is ahead of anybody either.
    local top = call('ZRANGE', clock, -1, -1, 'WITHSCORES')
    slot = tonumber(top[2]) or FIRST
  end
  return math.max(known, slot)
end

local function front_slot()
  local front = call('ZRANGEBYSCORE', prioritized, FIRST * SPAN, BELOW_BEHIND,
    'WITHSCORES', 'LIMIT', 0, 1)
  return front[2] and math.floor(tonumber(front[2]) / SPAN)
end

-- Take the slots that have passed away from all that count in slots. Returns the clock and the slot after it.
local function rebase(now_slot, slot)
  local shift = now_slot - FIRST
  if shift < 262144 then return now_slot, slot end
  local first = call('ZCOUNT', prioritized, '-inf', BELOW_FIRST)
  local count = call('ZCOUNT', prioritized, FIRST * SPAN, BELOW_BEHIND)
  -- All move by the same, the lowest first: the order, and so each rank, stays.
  for from = first, first + count - 1, 500 do
    local jobs = call('ZRANGE', prioritized, from, math.min(from + 499, first + count - 1), 'WITHSCORES')
    local moved = {}
    for i = 1, #jobs, 2 do
      moved[i] = tonumber(jobs[i + 1]) - shift * SPAN
      moved[i + 1] = jobs[i]
    end
    call('ZADD', prioritized, unpack(moved))
  end
  local known = call('ZRANGE', clock, 0, -1, 'WITHSCORES')
  for i = 1, #known, 2 do
    local name, at = known[i], tonumber(known[i + 1])
    if name ~= '#' then
      local line = line_of(string.sub(name, 2))
      if at <= now_slot then
        call('ZREM', clock, name)
        call('DEL', line)
      else
        call('ZADD', clock, at - shift, name)
        local total = call('ZCARD', line)
        for from = 0, total - 1, 500 do
          local jobs = call('ZRANGE', line, from, from + 499, 'WITHSCORES')
          local moved = {}
          for j = 1, #jobs, 2 do
            -- What has passed keeps below the clock.
            local row = math.floor(tonumber(jobs[j + 1]) / ROW)
            local place = tonumber(jobs[j + 1]) % ROW
            moved[j] = row * ROW + math.max(1, place - shift)
            moved[j + 1] = jobs[j]
          end
          call('ZADD', line, unpack(moved))
        end
      end
    end
  end
  call('ZADD', clock, FIRST, '#')
  return FIRST, slot - shift
end

-- Give a job the slot of this user's first job of a lower priority, and have those move up by one. Of a long line,
-- only every n-th does, past the others: the number of moves is bounded.
local function make_room(line, priority, at_end, now_slot)
  local total = call('ZCARD', line)
  local behind = call('ZCOUNT', line, (priority + 1) * ROW, '+inf')
  local stride = math.max(1, math.ceil(behind / CHAIN))
  local given, carried
  local function move(slot)
    call('ZADD', prioritized, slot * SPAN + carried.counter, carried.id)
    call('ZADD', line, carried.priority * ROW + slot, carried.id)
  end
  local gone = {}
  for rank = total - behind, total - 1, stride do
    local entry = call('ZRANGE', line, rank, rank, 'WITHSCORES')
    local slot = tonumber(entry[2]) % ROW
    local score = slot >= now_slot and tonumber(call('ZSCORE', prioritized, entry[1]))
    if score and math.floor(score / SPAN) == slot then
      if carried then move(slot) else given = slot end
      carried = {id = entry[1], priority = math.floor(tonumber(entry[2]) / ROW), counter = score % SPAN}
    else
      gone[#gone + 1] = entry[1]
    end
  end
  if carried then move(at_end) end
  if #gone > 0 then call('ZREM', line, unpack(gone)) end
  return given or at_end
end

-- Give a job of `prioritized` its slot. Returns the clock.
local function place(id, user, priority, now_slot)
  local name, line = '@' .. user, line_of(user)
  local slot = math.max(now_slot, tonumber(call('ZSCORE', clock, name)) or 0)
  if slot > LAST then
    now_slot, slot = rebase(now_slot, slot)
    -- More than two million of one user's jobs wait: beyond that they are served in order of arrival.
    slot = math.min(slot, LAST)
  end
  call('ZADD', clock, now_slot, '#', slot + 1, name)
  local counter = tonumber(call('ZSCORE', prioritized, id) or call('INCR', base .. 'pc')) % SPAN
  local last = call('ZRANGE', line, -1, -1, 'WITHSCORES')
  if last[2] and tonumber(last[2]) >= (priority + 1) * ROW then
    slot = make_room(line, priority, slot, now_slot)
  end
  call('ZADD', prioritized, slot * SPAN + counter, id)
  call('ZADD', line, priority * ROW + slot, id)
  return now_slot
end

-- A place among the user's active jobs. Returns whether there was one.
local function take_place(user, id, most)
  local places = base .. 'users:places:' .. user
  if call('SCARD', places) >= most and call('SISMEMBER', places, id) == 0 then
    -- Those of jobs that have ended, on whichever worker, are free.
    for _, other in ipairs(call('SMEMBERS', places)) do
      local job = call('HMGET', base .. other, 'timestamp', 'finishedOn')
      if not job[1] or job[2] then
        call('SREM', places, other)
        if job[1] then call('HDEL', base .. other, 'corral:place') end
      end
    end
    if call('SCARD', places) >= most then return false end
  end
  call('SADD', places, id)
  call('HSET', base .. id, 'corral:place', '1')
  return true
end

-- Keep a job, which is in none of BullMQ's sets, until one of this user's ends.
local function hold(id, user, priority, now)
  local counter = call('INCR', base .. 'pc') % SPAN
  call('ZADD', delayed, HELD_UNTIL + counter % 4096, id)
  call('ZADD', base .. 'users:held:' .. user, priority * SPAN + counter, id)
  call('ZADD', base .. 'users:holding', 'NX', now, user)
  call('HSET', base .. id, 'corral:user', user, 'corral:priority', priority)
  call('XADD', base .. 'events', '*', 'event', 'delayed', 'jobId', id, 'delay', HELD_UNTIL / 4096)
end

local function wake()
  if call('HEXISTS', base .. 'meta', 'paused') == 0 then call('ZADD', base .. 'marker', 0, '0') end
end

-- Let go of the user's held jobs for which there is a place. Returns how many.
local function let_go(user, most, now_slot)
  local held, let = base .. 'users:held:' .. user, 0
  while true do
    local first = call('ZRANGE', held, 0, 0, 'WITHSCORES')
    if not first[1] then
      call('ZREM', base .. 'users:holding', user)
      break
    end
    local id = first[1]
    local score = call('ZSCORE', delayed, id)
    if not score or tonumber(score) < HELD_UNTIL then
      call('ZREM', held, id) -- removed, or promoted by hand
    elseif take_place(user, id, most) then
      call('ZREM', held, id)
      call('ZREM', delayed, id)
      call('ZADD', prioritized, call('INCR', base .. 'pc') % SPAN, id)
      now_slot = place(id, user, math.floor(tonumber(first[2]) / SPAN), now_slot)
      call('HSET', base .. id, 'delay', 0)
      call('XADD', base .. 'events', '*', 'event', 'waiting', 'jobId', id, 'prev', 'delayed')
      let = let + 1
    else
      break
    end
  end
  if let > 0 then wake() end
  return let
end

-- Whose a job is that BullMQ moved: as was noted when it was added, else as its payload says.
local function user_of(id, noted)
  if noted then return noted end
  if call('HSTRLEN', base .. id, 'data') > 262144 then return '' end
  local read, data = pcall(cjson.decode, call('HGET', base .. id, 'data') or '')
  local user = read and type(data) == 'table' and (data['userId'] or data['user_id'])
  return type(user) == 'string' and user or ''
end

-- Give a slot to one job that has none. Returns whether it was given one (or is held).
local function adopt_one(id, now_slot, most_active, now)
  local job = call('HMGET', base .. id, 'timestamp', 'priority', 'processedOn', 'atm', 'corral:user', 'corral:priority',
    'corral:place', 'stc')
  -- What a worker gave back or lost goes ahead: it had its turn already.
  if not job[1] or job[8] or (job[3] and not job[4]) then return false end
  local user = user_of(id, job[5])
  local priority = math.min(tonumber(job[6] or job[2]) or 0, FIRST - 1)
  if job[6] then
    call('HSET', base .. id, 'priority', priority)
    call('HDEL', base .. id, 'corral:priority')
  end
  if most_active > 0 and user ~= '' and not job[7] and not take_place(user, id, most_active) then
    call('ZREM', prioritized, id)
    hold(id, user, priority, now)
  else
    place(id, user, priority, now_slot)
  end
  return true
end

-- Give slots to jobs that BullMQ put where its own order has them: retried, due, scheduled, added by other clients.
local function adopt(now_slot, most, most_active, now)
  local adopted = 0
  local ahead = call('ZRANGEBYSCORE', prioritized, '-inf', BELOW_FIRST, 'LIMIT', 0, most)
  local last = call('ZRANGEBYSCORE', prioritized, BEHIND * SPAN, '+inf', 'LIMIT', 0, most)
  for _, jobs in ipairs({ahead, last}) do
    for _, id in ipairs(jobs) do
      if adopt_one(id, now_slot, most_active, now) then adopted = adopted + 1 end
    end
  end
  for _, id in ipairs(call('LRANGE', base .. 'wait', -most, -1)) do
    if adopt_one(id, now_slot, most_active, now) then
      call('LREM', base .. 'wait', -1, id)
      adopted = adopted + 1
    end
  end
  return adopted
end

-- Compare a user's unstarted jobs with the set of them, until so many are gone. Returns how many there are.
local function recount(user, until_at_most)
  local set = base .. 'users:waiting:' .. user
  local count = call('ZCARD', set)
  if count <= until_at_most then return count end
  for _, id in ipairs(call('ZRANGE', set, 0, -1)) do
    local job = call('HMGET', base .. id, 'timestamp', 'processedOn')
    if not job[1] or job[2] then
      call('ZREM', set, id)
      count = count - 1
      if count <= until_at_most then break end
    end
  end
  return count
end

-- Forget what has passed. Done now and then, never with every job.
local function tidy(now_slot, now)
  for _, name in ipairs(call('ZRANGEBYSCORE', clock, '-inf', '(' .. now_slot, 'LIMIT', 0, 16)) do
    if name ~= '#' then
      call('ZREM', clock, name)
      call('DEL', line_of(string.sub(name, 2)))
    end
  end
  local seen = base .. 'users:seen'
  for _, user in ipairs(call('ZRANGEBYSCORE', seen, '-inf', now - 60000, 'LIMIT', 0, 1)) do
    if recount(user, -1) == 0 then call('ZREM', seen, user) else call('ZADD', seen, now, user) end
  end
end
