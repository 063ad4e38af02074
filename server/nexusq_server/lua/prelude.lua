-- Stands before every script that changes tasks' states. Counts the changes a batch and writes them at the end: one
-- HINCRBY a batch and status, not one a task. What it needs of ARGV: nothing.
local batches = {}

-- A whole number as text. Redis would print it anew, slowly, with each call that it is given to.
local texts = {}
local function text(number)
  local made = texts[number]
  if not made then
    made = string.format('%.0f', number)
    texts[number] = made
  end
  return made
end

-- A task of a batch is <uuid>-<index>; one that stands alone is a uuid of 36 characters.
local function batch_of(id)
  if #id > 36 then return string.sub(id, 1, 36) end
end

local function seen_batch(batch)
  local seen = batches[batch]
  if not seen then
    seen = { counts = {}, size = 0, more = {} }
    batches[batch] = seen
  end
  return seen
end

-- Writes what was submitted: `task` as in submit.lua.
local function write_task(key, task, status)
  local fields = { 'taskType', task[2], 'payload', task[3], 'submittedUs', task[6] }
  local function add(field, value)
    if value and value ~= '' then fields[#fields + 1], fields[#fields + 2] = field, value end
  end
  add('status', status)
  add('queue', task[4])
  add('ttl', task[5])
  add('priority', task[7])
  add('options', task[8])
  add('dueUs', task[9])
  redis.call('HSET', key, unpack(fields))
end

-- Counts a task's way from one status to another; `from` is nil for a task that was not there. `task` is the row that
-- brought it, nil where its batch is known to be there.
local function move(id, from, to, task)
  local batch = batch_of(id)
  if not batch then return end
  local seen = seen_batch(batch)
  if from then seen.counts[from] = (seen.counts[from] or 0) - 1 end
  seen.counts[to] = (seen.counts[to] or 0) + 1
  if task then
    seen.task = task
    local index = tonumber(string.sub(id, 38))
    if index >= seen.size then seen.size = index + 1 end
  end
  return seen
end

local function is_cancelled(batch)
  local seen = seen_batch(batch)
  if seen.cancelled == nil then
    seen.cancelled = redis.call('HGET', 'nexusq:batch:' .. batch, 'cancelled') and true or false
  end
  return seen.cancelled
end

-- Counts a failed task by the type of its error, which stands first in the error's JSON; `by` -1: it is taken back.
local function count_error(id, error, by)
  local batch = batch_of(id)
  if not batch then return end
  local seen = seen_batch(batch)
  local kind = string.sub(string.match(error or '', '^{"type":"([^"\\]*)"') or 'Exception', 1, 200)
  local field = 'error:' .. kind
  seen.more[field] = (seen.more[field] or 0) + by
  if by > 0 then
    seen.examples = seen.examples or {}
    seen.examples['errorAt:' .. kind] = seen.examples['errorAt:' .. kind] or id
  end
end

-- Counts how long an attempt ran that ended its task: by powers of 2^(1/8), so that percentiles are known within a tenth.
local function count_time(seen, us)
  local step = math.ceil(8 * math.log(math.max(us, 1)) / math.log(2))
  seen.ran = seen.ran or {}
  seen.ran[step] = (seen.ran[step] or 0) + 1
end

-- Writes a task's end: its state expires, and that it once was is known for longer.
local function expire_task(id, ttl, remembered)
  redis.call('EXPIRE', 'nexusq:task:' .. id, text(math.ceil(ttl)))
  if #id == 36 then redis.call('SET', 'nexusq:gone:' .. id, '', 'EX', math.ceil(ttl + remembered)) end
end

-- Writes the counters. A batch is finished once it is closed and all its tasks have ended; then it expires.
local function write_batches(ttl_default, remembered)
  for batch, seen in pairs(batches) do
    local key = 'nexusq:batch:' .. batch
    local task = seen.task
    if task and redis.call('HSETNX', key, 'submittedUs', task[6]) == 1 then
      redis.call('HSET', key, 'taskType', task[2], 'queue', task[4], 'ttl', task[5])
      redis.call('ZADD', 'nexusq:recent', task[6], batch)
    end
    if seen.started then redis.call('HSETNX', key, 'startedUs', seen.started) end
    if seen.last then redis.call('HSET', key, 'lastUs', seen.last) end
    for status, n in pairs(seen.counts) do
      if n ~= 0 then redis.call('HINCRBY', key, status, n) end
    end
    for step, n in pairs(seen.ran or {}) do
      redis.call('HINCRBY', key, string.format('ranUs:%.0f', math.ceil(2 ^ (step / 8))), n)
    end
    for field, n in pairs(seen.more) do
      if n ~= 0 then redis.call('HINCRBY', key, field, n) end
    end
    for field, id in pairs(seen.examples or {}) do redis.call('HSETNX', key, field, id) end
    local state = redis.call('HMGET', key, 'closed', 'size', 'COMPLETED', 'FAILED', 'CANCELLED', 'finishedUs', 'ttl',
      'lastUs', 'submittedUs', 'name')
    local size = tonumber(state[2] or 0)
    if seen.close then
      size = seen.close
      redis.call('HSET', key, 'size', size, 'closed', '1')
    elseif size < seen.size and not state[1] then
      size = seen.size
      redis.call('HSET', key, 'size', size)
    end
    if state[9] then
      local ended = tonumber(state[3] or 0) + tonumber(state[4] or 0) + tonumber(state[5] or 0)
      if ended >= size then
        if state[1] or seen.close then redis.call('HSET', key, 'finishedUs', state[8] or state[9]) end
        local kept = math.ceil((tonumber(state[7]) or ttl_default) + remembered)
        redis.call('EXPIRE', key, kept)
        if state[10] then redis.call('EXPIRE', 'nexusq:name:' .. state[10], kept) end
      else
        if state[6] then redis.call('HDEL', key, 'finishedUs') end
        redis.call('PERSIST', key)
        if state[10] then redis.call('PERSIST', 'nexusq:name:' .. state[10]) end
      end
    end
  end
end

