-- Writes the outcomes of tasks, once each: fenced by worker and attempt, so that a zombie's late answer is dropped.
-- KEYS[1] nexusq:recent
-- ARGV[1] worker id   ARGV[2] default ttl seconds   ARGV[3] seconds an expired id is remembered
-- ARGV[4] msgpack [[task id, attempt, status, result or error JSON, startedUs as text, finishedUs as text], ...]
-- returns an integer an outcome: 1 settled; 0 dropped, the task is another's or has ended;
--   -1 Redis has lost the claim (it was restarted): claim the task again, then settle it again
local me, ttl_default, remembered = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local outcomes = cmsgpack.unpack(ARGV[4])
local batches, answers = {}, {}
for i, outcome in ipairs(outcomes) do
  local id, status = outcome[1], outcome[3]
  local key = 'nexusq:task:' .. id
  local state = redis.call('HMGET', key, 'status', 'worker', 'attempt', 'ttl')
  if not state[1] or state[1] == 'QUEUED' then
    answers[i] = -1
  elseif state[1] ~= 'IN_PROGRESS' or state[2] ~= me or tonumber(state[3]) ~= outcome[2] then
    answers[i] = 0
  else
    local field = status == 'COMPLETED' and 'result' or 'error'
    redis.call('HSET', key, 'status', status, field, outcome[4], 'startedUs', outcome[5], 'finishedUs', outcome[6])
    local ttl = tonumber(state[4]) or ttl_default
    redis.call('EXPIRE', key, math.ceil(ttl))
    if #id > 36 then
      local batch = string.sub(id, 1, 36)
      local seen = batches[batch]
      if not seen then
        seen = { n = 0, ttl = ttl, finished = outcome[6] }
        batches[batch] = seen
      end
      seen.n = seen.n + 1
      seen[status] = (seen[status] or 0) + 1
      if outcome[6] > seen.finished then seen.finished = outcome[6] end
    else
      redis.call('SET', 'nexusq:gone:' .. id, '', 'EX', math.ceil(ttl + remembered))
    end
    answers[i] = 1
  end
end
for batch, seen in pairs(batches) do
  local key = 'nexusq:batch:' .. batch
  redis.call('HINCRBY', key, 'IN_PROGRESS', -seen.n)
  for _, status in ipairs({ 'COMPLETED', 'FAILED', 'CANCELLED' }) do
    if seen[status] then redis.call('HINCRBY', key, status, seen[status]) end
  end
  redis.call('HSET', key, 'lastUs', seen.finished)
  local batch_state = redis.call('HMGET', key, 'closed', 'size', 'COMPLETED', 'FAILED', 'CANCELLED')
  local ended = tonumber(batch_state[3] or 0) + tonumber(batch_state[4] or 0) + tonumber(batch_state[5] or 0)
  if batch_state[1] and ended >= tonumber(batch_state[2]) then
    redis.call('HSET', key, 'finishedUs', seen.finished)
    redis.call('EXPIRE', key, math.ceil(seen.ttl + remembered))
  end
end
return answers
