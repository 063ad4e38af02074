-- Decides, for each record that a worker is about to start, whether it may: atomically, so that no two do.
-- KEYS[1] nexusq:recent
-- ARGV[1] worker id   ARGV[2] now in µs as text
-- ARGV[3] msgpack [[task id, task type, payload JSON, queue or "", ttl seconds or "", submittedUs as text, attempt], ...]
-- returns an integer a record: its attempt (1 or more): yours, start it; 0: skip it, it has ended;
--   -1: a live worker has it, come back later
local me, now = ARGV[1], ARGV[2]
local tasks = cmsgpack.unpack(ARGV[3])
local alive, batches, answers = { [me] = false }, {}, {}

local function lives(worker)
  if alive[worker] == nil then
    alive[worker] = redis.call('EXISTS', 'nexusq:worker:' .. worker) == 1
  end
  return alive[worker]
end

for i, task in ipairs(tasks) do
  local id = task[1]
  local key = 'nexusq:task:' .. id
  local state = redis.call('HMGET', key, 'status', 'worker', 'attempt', 'deliveries')
  local status, answer = state[1], nil
  if not status then
    answer = task[7]
    redis.call('HSET', key, 'taskType', task[2], 'payload', task[3], 'submittedUs', task[6])
    if task[4] ~= '' then redis.call('HSET', key, 'queue', task[4]) end
    if task[5] ~= '' then redis.call('HSET', key, 'ttl', task[5]) end
  elseif status == 'QUEUED' then
    answer = task[7]
  elseif status == 'IN_PROGRESS' then
    -- A worker asks only for what it does not hold: its own name here is left over from a lost answer of Redis.
    if lives(state[2]) then
      answer = -1
    else
      answer = tonumber(state[3])
      -- An attempt is charged only where the handler had started when its worker died.
      if redis.call('SISMEMBER', 'nexusq:worker:' .. state[2] .. ':running', id) == 1 then
        answer = answer + 1
      end
    end
  else
    answer = 0
  end
  if answer > 0 then
    redis.call('HSET', key, 'status', 'IN_PROGRESS', 'worker', me, 'attempt', answer,
      'deliveries', tonumber(state[4] or 0) + 1, 'startedUs', now)
    if #id > 36 then
      local batch = string.sub(id, 1, 36)
      local seen = batches[batch]
      if not seen then
        seen = { task = task, fresh = 0, queued = 0, size = 0 }
        batches[batch] = seen
      end
      if not status then
        seen.fresh = seen.fresh + 1
        local index = tonumber(string.sub(id, 38))
        if index >= seen.size then seen.size = index + 1 end
      elseif status == 'QUEUED' then
        seen.queued = seen.queued + 1
      end
    elseif not status then
      redis.call('ZADD', KEYS[1], task[6], id)
    end
  end
  answers[i] = answer
end

for batch, seen in pairs(batches) do
  local key = 'nexusq:batch:' .. batch
  if redis.call('HSETNX', key, 'submittedUs', seen.task[6]) == 1 then
    redis.call('HSET', key, 'taskType', seen.task[2], 'queue', seen.task[4], 'ttl', seen.task[5])
    redis.call('ZADD', KEYS[1], seen.task[6], batch)
  end
  redis.call('HSETNX', key, 'startedUs', now)
  if seen.fresh + seen.queued > 0 then redis.call('HINCRBY', key, 'IN_PROGRESS', seen.fresh + seen.queued) end
  if seen.queued > 0 then redis.call('HINCRBY', key, 'QUEUED', -seen.queued) end
  if tonumber(redis.call('HGET', key, 'size') or 0) < seen.size then
    redis.call('HSET', key, 'size', seen.size)
  end
end
return answers
