-- Decides, for each record that a worker is about to start, whether it may: atomically, so that no two do.
-- KEYS[1] nexusq:recent   KEYS[2] nexusq:due
-- ARGV[1] worker id   ARGV[2] now in µs as text   ARGV[3] default ttl seconds   ARGV[4] seconds an expired id is remembered
-- ARGV[5] claims without an end after which a task is run alone   ARGV[6] ... and after which it is given up
-- ARGV[7] msgpack [task id, the record's attempt, batch's size or 0, ...]: in one list, which costs less than one each
-- ARGV[8] a lease in seconds   ARGV[9] how many to start at the most: records behind the last of these are not looked at
-- ARGV[10] "", or msgpack of what submit.lua is given of each of them, for those whose state is not there
-- returns two lists. The first has an integer for each record that was looked at. 1 or more: yours, start it as this attempt;
--   0: skip it: it has ended, waits in the due set, or has a newer record; -1: a live worker has it, come back later;
--   -2: it has no state, ask again with ARGV[10]: there is room for it. The second has four integers for each that is not
--   as usual: its place in the first, the attempts that count no more, whether to run it alone (1) or to give it up (2),
--   the claims without an end.
local me, now = ARGV[1], ARGV[2]
local now_number, ttl_default, remembered = tonumber(now), tonumber(ARGV[3]), tonumber(ARGV[4])
local alone_after, give_up_after, room = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[9])
local alive, answers, unusual = { [me] = false }, {}, {}
local tasks = ARGV[10] ~= '' and cmsgpack.unpack(ARGV[10])

-- Leases may have run out while Redis was down: for the time of a lease after its start, workers are taken to live.
local function just_started()
  return tonumber(string.match(call('INFO', 'server'), 'uptime_in_seconds:(%d+)')) < tonumber(ARGV[8])
end

local function lives(worker)
  if alive[worker] == nil then
    alive[worker] = call('EXISTS', 'nexusq:worker:' .. worker) == 1 or just_started()
  end
  return alive[worker]
end

local none = {}
local records = cmsgpack.unpack(ARGV[7])
for i = 1, #records / 3 do
  local id, number, size = records[3 * i - 2], records[3 * i - 1], records[3 * i]
  local key = 'nexusq:task:' .. id
  local seen = seen_of(id)
  local state = call('HMGET', key, 'status', 'attempt', 'record', 'dueUs')
  local status, attempt, answer = state[1], state[2] and tonumber(state[2]) or 0, nil
  -- The rest is not there before a task was claimed once, or taken back.
  local past = state[2] and call('HMGET', key, 'worker', 'deliveries', 'spent', 'cancel') or none
  local task = not status and tasks and tasks[i] or nil
  -- The state's word goes: of a task that was promoted, or taken back before its time, the record still names its time.
  local due = status and state[4] or task and task[9]
  if task then
    answer = number
    write_task(key, task, 'QUEUED')
    if number > 1 then call('HSET', key, 'record', number) end
    if not seen then call('ZADD', KEYS[1], task[6], id) end
  elseif not status then
    answer = -2
  elseif status == 'COMPLETED' or status == 'FAILED' or status == 'CANCELLED'
    or (state[3] and number < tonumber(state[3])) then
    -- A retry has a record of its own, which the due set keeps until Kafka has it.
    answer = 0
  elseif status == 'IN_PROGRESS' then
    -- A worker asks only for what it does not hold: its own name here is left over from a lost answer of Redis.
    if lives(past[1]) then
      answer = -1
    else
      answer = attempt
      -- An attempt is charged only where the handler had started when its worker died: this one has not.
      local running = 'nexusq:worker:' .. past[1] .. ':running'
      if past[1] ~= me and call('SISMEMBER', running, id) == 1 then answer = answer + 1 end
      -- A record of a later attempt says that those before it have ended, whatever Redis has lost of that.
      if answer < number then answer = number end
    end
  else
    answer = attempt < number and number or attempt + 1
  end
  if answer > 0 then
    local to = 'IN_PROGRESS'
    if past[4] or (seen and is_cancelled(seen)) then
      to, answer = 'CANCELLED', 0
      call('HSET', key, 'status', to, 'finishedUs', now)
      expire_task(key, id, tonumber(call('HGET', key, 'ttl') or '') or ttl_default, remembered)
    elseif due and status ~= 'IN_PROGRESS' and (tonumber(due) or 0) > now_number then
      to, answer = 'SCHEDULED', 0
      call('HSET', key, 'status', to)
      call('ZADD', KEYS[2], due, id)
    else
      -- The first claim is not counted where no other follows it.
      local deliveries, spent = (tonumber(past[2]) or (status == to and 1 or 0)) + 1, tonumber(past[3]) or 0
      call('HSET', key, 'status', to, 'worker', me, 'attempt', text(answer), 'startedUs', now)
      if deliveries > 1 or past[2] then call('HSET', key, 'deliveries', deliveries) end
      local how = deliveries > give_up_after and 2 or deliveries > alone_after and 1 or 0
      if spent > 0 or how > 0 then
        for _, value in ipairs({ i, spent, how, deliveries }) do unusual[#unusual + 1] = value end
      end
    end
    if status == 'SCHEDULED' and to ~= 'SCHEDULED' then call('ZREM', KEYS[2], id) end
    if seen then
      if task then add(seen, id, task, to) else move(seen, status, to) end
      if to == 'IN_PROGRESS' then seen.started = now elseif to == 'CANCELLED' then seen.last = now end
    end
  end
  if size > 0 and answer ~= -2 then seen.close = size end
  answers[i] = answer
  if answer > 0 or answer == -2 then
    room = room - 1
    if room <= 0 then break end
  end
end
write_batches(ttl_default, remembered)
return { answers, unusual }
