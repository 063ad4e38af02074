-- Writes how attempts ended, once each: fenced by worker and attempt, so that a zombie's late answer is dropped.
-- KEYS[1] nexusq:due   KEYS[2] nexusq:dead
-- ARGV[1] worker id   ARGV[2] default ttl seconds   ARGV[3] seconds an expired id is remembered
-- ARGV[4] seconds a dead letter is kept   ARGV[5] dead letters from before this time (µs, as text) are forgotten
-- ARGV[6] msgpack [[task id, attempt, status, result or error JSON, startedUs as text, finishedUs as text, dueUs as text or "",
--   JSON of what failed or "", whether it was parked], ...]; SCHEDULED: the attempt failed and there is another one at dueUs
-- returns an integer an outcome: 1 settled; 0 dropped, the task is another's or has ended;
--   -1 Redis has lost the claim (it was restarted): claim the task again, then settle it again
local me, ttl_default, remembered = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local answers, any_dead = {}, false
for i, outcome in ipairs(cmsgpack.unpack(ARGV[6])) do
  local id, status = outcome[1], outcome[3]
  local key = 'nexusq:task:' .. id
  local state = redis.call('HMGET', key, 'status', 'worker', 'attempt', 'ttl', 'cancel', 'history')
  if not state[1] or state[1] == 'QUEUED' or (state[1] == 'SCHEDULED' and tonumber(state[3] or 0) < outcome[2]) then
    answers[i] = -1
  elseif state[1] ~= 'IN_PROGRESS' or state[2] ~= me or tonumber(state[3]) ~= outcome[2] then
    answers[i] = 0
  else
    if state[5] and status == 'SCHEDULED' then status = 'CANCELLED' end
    local field = status == 'COMPLETED' and 'result' or 'error'
    redis.call('HSET', key, 'status', status, field, outcome[4], 'startedUs', outcome[5], 'finishedUs', outcome[6])
    local seen = move(id, 'IN_PROGRESS', status)
    if outcome[8] ~= '' and #(state[6] or '') < 50000 then
      local history = state[6] and string.sub(state[6], 1, -2) .. ',' or '['
      redis.call('HSET', key, 'history', history .. outcome[8] .. ']')
    end
    if status == 'SCHEDULED' then
      redis.call('HSET', key, 'dueUs', outcome[7], 'record', outcome[2] + 1, 'deliveries', 0)
      redis.call('ZADD', KEYS[1], outcome[7], id)
    else
      local ttl = tonumber(state[4]) or ttl_default
      if status == 'FAILED' then
        any_dead = true
        ttl = math.max(ttl, tonumber(ARGV[4]))
        redis.call('ZADD', KEYS[2], outcome[6], id)
        count_error(id, outcome[4], 1)
      end
      if status == 'COMPLETED' and outcome[2] > 1 then redis.call('HDEL', key, 'error') end
      expire_task(id, ttl, remembered)
      if seen and status ~= 'CANCELLED' then count_time(seen, tonumber(outcome[6]) - tonumber(outcome[5])) end
      if seen and (not seen.last or outcome[6] > seen.last) then seen.last = outcome[6] end
    end
    if outcome[9] then redis.call('SREM', 'nexusq:worker:' .. me .. ':parked', id) end
    answers[i] = 1
  end
end
write_batches(ttl_default, remembered)
if any_dead then redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. ARGV[5]) end
return answers
