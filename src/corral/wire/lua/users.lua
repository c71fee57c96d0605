--[[
  What every script of a queue that is shared by its users has in common. `base` ("prefix:queue:") is given above it.

  The order lives in BullMQ's own `prioritized` ZSET, whose score is priority * 2^32 + counter, so that a worker in any
  language takes the jobs in it. The priority of a waiting job is its slot: a job's start in start-time fair queueing
  (Goyal, Vin, Cheng 1996) with every job of cost 1. The clock is the lowest slot that waits, which needs no worker of
  ours to move it on. Priorities below FIRST are those that jobs carry in their hash, and with which BullMQ itself puts
  them there when they are retried or due: such a job has no slot yet, and goes ahead. One that carries BEHIND goes
  last. `adopt` gives them slots.

  Keys, all under `base`, so that a Cluster has them in the queue's slot:
    users:next            HASH user -> the slot of this user's next job * 1024 + the highest priority number in line
    users:line:<user>     LIST of ids: jobs of the user with slots, all of the next and some of the later; those that no
                          longer wait go now and then
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
local prioritized, next_slots = base .. 'prioritized', base .. 'users:next'
-- Made when it is needed: an added job pays for each function that is made and not called.
local rare

-- The slot of one more job. `front` is the clock, nil when no job with a slot waits.
local function slot_for(id, user, priority, front)
  local line = base .. 'users:line:' .. user
  if not front then
    -- Nobody waits: nobody is ahead of anybody either.
    rare().forget()
    front = FIRST
  end
  local known = call('HINCRBY', next_slots, user, 1024)
  local slot, lowest = math.floor(known / 1024) - 1, known % 1024
  if slot <= front then
    -- All that this user had in line is through.
    call('HSET', next_slots, user, (front + 1) * 1024 + priority)
    if known > 1024 then call('DEL', line) end
    slot, lowest = front, priority
  elseif priority > lowest or slot > LAST then
    if slot > LAST then front, slot = rare().rebase(front, slot) end
    call('HSET', next_slots, user, (slot + 1) * 1024 + math.max(priority, lowest))
  end
  if priority < lowest then slot = rare().make_room(line, priority, slot) end
  -- Of those far back every eighth will do: room is made in front of one of these.
  if (slot - front < 16 or slot % 8 == 0) and call('RPUSH', line, id) % 32 == 0 then rare().shorten(line) end
  return slot
end

rare = function()
  -- FIRST * SPAN and BEHIND * SPAN, as bounds that exclude: Lua would round the longer one.
  local BELOW_FIRST, BELOW_BEHIND = '(4398046511104', '(9007194959773696'
  local HELD_UNTIL = 2190000000000 * 4096
  local delayed, holding = base .. 'delayed', base .. 'users:holding'
  local it = {}

  -- Give a job that is there already its slot.
  local function place(id, user, priority, counter)
    call('ZADD', prioritized, slot_for(id, user, priority, it.front()) * SPAN + counter % SPAN, id)
  end

  -- The clock.
  function it.front()
    local found = call('ZRANGEBYSCORE', prioritized, FIRST * SPAN, BELOW_BEHIND, 'WITHSCORES', 'LIMIT', 0, 1)
    return found[2] and math.floor(tonumber(found[2]) / SPAN)
  end

  -- Forget everybody's turns.
  function it.forget()
    local keys = {next_slots}
    for _, user in ipairs(call('HKEYS', next_slots)) do
      keys[#keys + 1] = base .. 'users:line:' .. user
      if #keys > 1000 then
        call('DEL', unpack(keys))
        keys = {next_slots}
      end
    end
    call('DEL', unpack(keys))
  end

  -- Take the slots that have passed away from all that count in slots, when these run out. Returns the clock and the
  -- slot after it.
  function it.rebase(front, slot)
    local shift = front - FIRST
    -- More than two million of one user's jobs wait: beyond that they are served in the order of arrival.
    if shift < 262144 then return front, LAST end
    local first = call('ZCOUNT', prioritized, '-inf', BELOW_FIRST)
    local last = first + call('ZCOUNT', prioritized, FIRST * SPAN, BELOW_BEHIND) - 1
    -- All move by the same, the lowest first: the order, and so each rank, stays.
    for from = first, last, 500 do
      local jobs, moved = call('ZRANGE', prioritized, from, math.min(from + 499, last), 'WITHSCORES'), {}
      for i = 1, #jobs, 2 do
        moved[i], moved[i + 1] = tonumber(jobs[i + 1]) - shift * SPAN, jobs[i]
      end
      call('ZADD', prioritized, unpack(moved))
    end
    local known = call('HGETALL', next_slots)
    for i = 1, #known, 2 do
      local value = tonumber(known[i + 1]) - shift * 1024
      if value >= FIRST * 1024 then
        call('HSET', next_slots, known[i], value)
      else
        call('HDEL', next_slots, known[i])
      end
    end
    return FIRST, math.min(slot - shift, LAST)
  end

  -- The slot of this user's first job of a lower priority; those that have one move up by one. Of a long line only
  -- every n-th does, past the others, so that the number of moves is bounded.
  function it.make_room(line, priority, at_end)
    local length, moving = call('LLEN', line), {}
    local function look(index)
      local id = call('LINDEX', line, index)
      local score = id and tonumber(call('ZSCORE', prioritized, id))
      if not score or score < FIRST * SPAN then return end
      local job = call('HMGET', base .. id, 'corral:priority', 'priority')
      if tonumber(job[1] or job[2] or 0) > priority then
        moving[#moving + 1] = {id = id, slot = math.floor(score / SPAN), counter = score % SPAN}
      end
    end
    for index = 0, math.min(length, 32) - 1 do look(index) end
    for index = 32, length - 1, math.max(1, math.ceil((length - 32) / 32)) do look(index) end
    table.sort(moving, function(a, b) return a.slot < b.slot end)
    for i, job in ipairs(moving) do
      local slot = moving[i + 1] and moving[i + 1].slot or at_end
      call('ZADD', prioritized, slot * SPAN + job.counter, job.id)
    end
    return moving[1] and moving[1].slot or at_end
  end

  -- Take those that no longer wait from the head of a line.
  function it.shorten(line)
    for _ = 1, 8 do
      local jobs, waiting = call('LRANGE', line, 0, 31), {}
      for _, id in ipairs(jobs) do
        if call('ZSCORE', prioritized, id) then waiting[#waiting + 1] = id end
      end
      if #waiting > 16 or #jobs < 32 then return end
      call('LTRIM', line, #jobs, -1)
      if #waiting > 0 then call('RPUSH', line, unpack(waiting)) end
    end
  end

  -- A place among the user's active jobs. Returns whether there was one.
  function it.take_place(user, id, most)
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
  function it.hold(id, user, priority, now)
    local counter = call('INCR', base .. 'pc') % SPAN
    call('ZADD', delayed, HELD_UNTIL + counter % 4096, id)
    call('ZADD', base .. 'users:held:' .. user, priority * SPAN + counter, id)
    call('ZADD', holding, 'NX', now, user)
    call('HSET', base .. id, 'corral:user', user, 'corral:priority', priority)
    call('XADD', base .. 'events', '*', 'event', 'delayed', 'jobId', id, 'delay', HELD_UNTIL / 4096)
  end

  -- Let go of the user's held jobs for which there is a place. Returns how many.
  function it.let_go(user, most)
    local held, let = base .. 'users:held:' .. user, 0
    while true do
      local first = call('ZRANGE', held, 0, 0, 'WITHSCORES')
      if not first[1] then
        call('ZREM', holding, user)
        break
      end
      local id = first[1]
      local score = call('ZSCORE', delayed, id)
      if not score or tonumber(score) < HELD_UNTIL then
        call('ZREM', held, id) -- removed, or promoted by hand
      elseif it.take_place(user, id, most) then
        call('ZREM', held, id)
        call('ZREM', delayed, id)
        place(id, user, math.floor(tonumber(first[2]) / SPAN), call('INCR', base .. 'pc'))
        call('HSET', base .. id, 'delay', 0)
        call('XADD', base .. 'events', '*', 'event', 'waiting', 'jobId', id, 'prev', 'delayed')
        let = let + 1
      else
        break
      end
    end
    if let > 0 and call('HEXISTS', base .. 'meta', 'paused') == 0 then call('ZADD', base .. 'marker', 0, '0') end
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

  -- Give a slot to one job that has none. Returns whether it was given one, or is held.
  local function adopt_one(id, most_active, now)
    local job = call('HMGET', base .. id, 'timestamp', 'priority', 'processedOn', 'atm', 'corral:user',
      'corral:priority', 'corral:place', 'stc')
    -- What a worker gave back or lost goes ahead: it had its turn already.
    if not job[1] or job[8] or (job[3] and not job[4]) then return false end
    local user = user_of(id, job[5])
    local priority = math.min(tonumber(job[6] or job[2]) or 0, FIRST - 1)
    if job[6] then
      call('HSET', base .. id, 'priority', priority)
      call('HDEL', base .. id, 'corral:priority')
    end
    if most_active > 0 and user ~= '' and not job[7] and not it.take_place(user, id, most_active) then
      call('ZREM', prioritized, id)
      it.hold(id, user, priority, now)
    else
      local score = call('ZSCORE', prioritized, id)
      place(id, user, priority, score and tonumber(score) or call('INCR', base .. 'pc'))
    end
    return true
  end

  -- Give slots to jobs that BullMQ put where its own order has them: retried, due, scheduled, added by other clients.
  function it.adopt(most, most_active, now)
    local adopted = 0
    local ahead = call('ZRANGEBYSCORE', prioritized, '-inf', BELOW_FIRST, 'LIMIT', 0, most)
    local last = call('ZRANGEBYSCORE', prioritized, BEHIND * SPAN, '+inf', 'LIMIT', 0, most)
    for _, jobs in ipairs({ahead, last}) do
      for _, id in ipairs(jobs) do
        if adopt_one(id, most_active, now) then adopted = adopted + 1 end
      end
    end
    for _, id in ipairs(call('LRANGE', base .. 'wait', -most, -1)) do
      if adopt_one(id, most_active, now) then
        call('LREM', base .. 'wait', -1, id)
        adopted = adopted + 1
      end
    end
    return adopted
  end

  -- Compare a user's unstarted jobs with the set of them, until so many are gone. Returns how many there are.
  function it.recount(user, until_at_most)
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
  function it.tidy(front, now)
    local cursor = call('GET', base .. 'users:tidied') or '0'
    local some = call('HSCAN', next_slots, cursor, 'COUNT', 64)
    if some[1] ~= cursor then call('SET', base .. 'users:tidied', some[1], 'EX', 86400) end
    for i = 1, #some[2], 2 do
      if not front or tonumber(some[2][i + 1]) < (front + 1) * 1024 then
        call('HDEL', next_slots, some[2][i])
        call('DEL', base .. 'users:line:' .. some[2][i])
      end
    end
    local seen = base .. 'users:seen'
    for _, user in ipairs(call('ZRANGEBYSCORE', seen, '-inf', now - 60000, 'LIMIT', 0, 1)) do
      if it.recount(user, -1) == 0 then call('ZREM', seen, user) else call('ZADD', seen, now, user) end
    end
  end

  rare = function() return it end
  return it
end
