-- Stands before every script that changes tasks' states. Counts the changes a batch and writes them at the end: one
-- HINCRBY a batch and status, not one a task. What it needs of ARGV: nothing.
local batches = {}
-- What is called for every task is looked up once.
local call, sub, ceil, format = redis.call, string.sub, math.ceil, string.format

-- A whole number as text. Redis would print it anew, slowly, with each call that it is given to.
local texts = {}
local function text(number)
  local made = texts[number]
  if not made then
    made = format('%.0f', number)
    texts[number] = made
  end
  return made
end

-- What is counted of a batch: `counts` its tasks by status, `more` other fields, both to be added; `task` is a row that
-- brought one of its tasks, nil where the batch is known to be there.
local function seen_batch(batch)
  local seen = batches[batch]
  if not seen then
    seen = { key = 'nexusq:batch:' .. batch, counts = {}, size = 0, more = {} }
    batches[batch] = seen
  end
  return seen
end

-- ... of a task's batch: a task of a batch is <uuid>-<index>. Nil for one that stands alone: a uuid of 36 characters.
local function seen_of(id)
  if #id > 36 then return seen_batch(sub(id, 1, 36)) end
end

-- Writes what was submitted: `task` as in submit.lua.
local row, maybe = { 'taskType', '', 'payload', '', 'submittedUs', '', 'status' },
  { 'queue', 4, 'ttl', 5, 'priority', 7, 'options', 8, 'dueUs', 9 }
local function write_task(key, task, status)
  row[2], row[4], row[6], row[8] = task[2], task[3], task[6], status
  local n = 8
  for i = 2, #maybe, 2 do
    local value = task[maybe[i]]
    if value and value ~= '' then
      row[n + 1], row[n + 2] = maybe[i - 1], value
      n = n + 2
    end
  end
  call('HSET', key, unpack(row, 1, n))
end

-- Counts a task's way from one status to another; `seen` is nil for one that stands alone.
local function move(seen, from, to)
  if seen then
    local counts = seen.counts
    counts[from] = (counts[from] or 0) - 1
    counts[to] = (counts[to] or 0) + 1
  end
end

-- Counts a task of a batch that was not there before.
local function add(seen, id, task, to)
  seen.counts[to] = (seen.counts[to] or 0) + 1
  seen.task = task
  local index = tonumber(sub(id, 38))
  if index >= seen.size then seen.size = index + 1 end
end

local function is_cancelled(seen)
  if seen.cancelled == nil then seen.cancelled = call('HGET', seen.key, 'cancelled') and true or false end
  return seen.cancelled
end

-- Counts a failed task by the type of its error, which stands first in the error's JSON; `by` -1: it is taken back.
local function count_error(seen, id, error, by)
  if not seen then return end
  local kind = string.sub(string.match(error or '', '^{"type":"([^"\\]*)"') or 'Exception', 1, 200)
  local field = 'error:' .. kind
  seen.more[field] = (seen.more[field] or 0) + by
  if by > 0 then
    seen.examples = seen.examples or {}
    seen.examples['errorAt:' .. kind] = seen.examples['errorAt:' .. kind] or id
  end
end

-- Counts how long an attempt ran that ended its task: by powers of 2^(1/8), so that percentiles are known within a tenth.
local log, eighths = math.log, 8 / math.log(2)
local function count_time(seen, us)
  local step = us > 1 and ceil(eighths * log(us)) or 0
  local ran = seen.ran
  if not ran then
    ran = {}
    seen.ran = ran
  end
  ran[step] = (ran[step] or 0) + 1
end

-- Writes a task's end: its state expires, and that it once was is known for longer.
local function expire_task(key, id, ttl, remembered)
  call('EXPIRE', key, text(ceil(ttl)))
  if #id == 36 then call('SET', 'nexusq:gone:' .. id, '', 'EX', text(ceil(ttl + remembered))) end
end

-- Writes the counters. A batch is finished once it is closed and all its tasks have ended; then it expires.
local function write_batches(ttl_default, remembered)
  for batch, seen in pairs(batches) do
    local key, task = seen.key, seen.task
    if task and call('HSETNX', key, 'submittedUs', task[6]) == 1 then
      call('HSET', key, 'taskType', task[2], 'queue', task[4], 'ttl', task[5])
      call('ZADD', 'nexusq:recent', task[6], batch)
    end
    if seen.started then call('HSETNX', key, 'startedUs', seen.started) end
    if seen.last then call('HSET', key, 'lastUs', seen.last) end
    for status, n in pairs(seen.counts) do
      if n ~= 0 then call('HINCRBY', key, status, n) end
    end
    for step, n in pairs(seen.ran or {}) do
      call('HINCRBY', key, format('ranUs:%.0f', ceil(2 ^ (step / 8))), n)
    end
    for field, n in pairs(seen.more) do
      if n ~= 0 then call('HINCRBY', key, field, n) end
    end
    for field, id in pairs(seen.examples or {}) do call('HSETNX', key, field, id) end
    local state = call('HMGET', key, 'closed', 'size', 'COMPLETED', 'FAILED', 'CANCELLED', 'finishedUs', 'ttl',
      'lastUs', 'submittedUs', 'name')
    local size = tonumber(state[2] or 0)
    if seen.close then
      size = seen.close
      call('HSET', key, 'size', size, 'closed', '1')
    elseif size < seen.size and not state[1] then
      size = seen.size
      call('HSET', key, 'size', size)
    end
    if state[9] then
      local ended = tonumber(state[3] or 0) + tonumber(state[4] or 0) + tonumber(state[5] or 0)
      if ended >= size then
        if state[1] or seen.close then call('HSET', key, 'finishedUs', state[8] or state[9]) end
        local kept = ceil((tonumber(state[7]) or ttl_default) + remembered)
        call('EXPIRE', key, kept)
        if state[10] then call('EXPIRE', 'nexusq:name:' .. state[10], kept) end
      else
        if state[6] then call('HDEL', key, 'finishedUs') end
        call('PERSIST', key)
        if state[10] then call('PERSIST', 'nexusq:name:' .. state[10]) end
      end
    end
  end
end

