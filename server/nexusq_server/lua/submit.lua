-- Writes the state of newly submitted tasks: QUEUED, unless somebody (a quick worker) has written one already.
-- KEYS[1] nexusq:recent
-- ARGV[1] msgpack [[task id, task type, payload JSON, queue or "", ttl seconds or "", submittedUs as text], ...]
-- ARGV[2] submittedUs before which entries of nexusq:recent are dropped, as text
-- returns the number of tasks whose state was written
local tasks = cmsgpack.unpack(ARGV[1])
local batches, written = {}, 0
for _, task in ipairs(tasks) do
  local id = task[1]
  local key = 'nexusq:task:' .. id
  local batch, index = nil, nil
  if #id > 36 then
    batch, index = string.sub(id, 1, 36), tonumber(string.sub(id, 38))
  end
  if redis.call('EXISTS', key) == 0 and (batch or redis.call('EXISTS', 'nexusq:gone:' .. id) == 0) then
    redis.call('HSET', key, 'status', 'QUEUED', 'taskType', task[2], 'payload', task[3], 'submittedUs', task[6])
    if task[4] ~= '' then redis.call('HSET', key, 'queue', task[4]) end
    if task[5] ~= '' then redis.call('HSET', key, 'ttl', task[5]) end
    written = written + 1
    if batch then
      local seen = batches[batch]
      if not seen then
        seen = { task = task, queued = 0, size = 0 }
        batches[batch] = seen
      end
      seen.queued = seen.queued + 1
      if index >= seen.size then seen.size = index + 1 end
    else
      redis.call('ZADD', KEYS[1], task[6], id)
    end
  end
end
for batch, seen in pairs(batches) do
  local key = 'nexusq:batch:' .. batch
  if redis.call('HSETNX', key, 'submittedUs', seen.task[6]) == 1 then
    redis.call('HSET', key, 'taskType', seen.task[2], 'queue', seen.task[4], 'ttl', seen.task[5])
    redis.call('ZADD', KEYS[1], seen.task[6], batch)
  end
  redis.call('HINCRBY', key, 'QUEUED', seen.queued)
  if tonumber(redis.call('HGET', key, 'size') or 0) < seen.size then
    redis.call('HSET', key, 'size', seen.size)
  end
  redis.call('PERSIST', key)
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[2])
return written
