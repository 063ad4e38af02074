-- Writes how attempts ended, once each: fenced by worker and attempt, so that a zombie's late answer is dropped.
-- KEYS[1] nexusq:due   KEYS[2] nexusq:dead
-- ARGV[1] worker id   ARGV[2] default ttl seconds   ARGV[3] seconds an expired id is remembered
-- ARGV[4] seconds a dead letter is kept   ARGV[5] dead letters from before this time (µs, as text) are forgotten
-- ARGV[6] msgpack [task id, attempt, status, result or error JSON, startedUs as text, finishedUs as text, µs between
--   them, dueUs as text or "", JSON of what failed or "", whether it was parked, ...]: ten an outcome, in one list, which
--   costs less than one each.
--   SCHEDULED: the attempt failed and there is another one at dueUs
-- returns an integer an outcome: 1 settled; 0 dropped, the task is another's or has ended;
--   -1 Redis has lost the claim (it was restarted): claim the task again, then settle it again
local me, ttl_default, remembered = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local answers, any_dead = {}, false
local outcomes = cmsgpack.unpack(ARGV[6])
for at = 0, #outcomes - 10, 10 do
  local id, number, status, value = outcomes[at + 1], outcomes[at + 2], outcomes[at + 3], outcomes[at + 4]
  local started, finished, failure = outcomes[at + 5], outcomes[at + 6], outcomes[at + 9]
  local answer
  local key = 'nexusq:task:' .. id
  local state = call('HMGET', key, 'status', 'worker', 'attempt', 'ttl')
  local before = state[1]
  if not before or ((before == 'QUEUED' or before == 'SCHEDULED') and tonumber(state[3] or 0) < number) then
    -- Waiting after this very attempt, it was settled before, and its next record may be in Kafka already.
    answer = -1
  elseif before ~= 'IN_PROGRESS' or state[2] ~= me or tonumber(state[3]) ~= number then
    answer = 0
  else
    if status == 'SCHEDULED' and call('HGET', key, 'cancel') then status = 'CANCELLED' end
    local field = status == 'COMPLETED' and 'result' or 'error'
    call('HSET', key, 'status', status, field, value, 'startedUs', started, 'finishedUs', finished)
    local seen = seen_of(id)
    move(seen, before, status)
    if failure ~= '' then
      local history = call('HGET', key, 'history') or ''
      if #history < 50000 then
        call('HSET', key, 'history', (history == '' and '[' or sub(history, 1, -2) .. ',') .. failure .. ']')
      end
    end
    if status == 'SCHEDULED' then
      call('HSET', key, 'dueUs', outcomes[at + 8], 'record', number + 1, 'deliveries', 0)
      call('ZADD', KEYS[1], outcomes[at + 8], id)
    else
      local ttl = state[4] and tonumber(state[4]) or ttl_default
      if status == 'FAILED' then
        any_dead = true
        ttl = math.max(ttl, tonumber(ARGV[4]))
        call('ZADD', KEYS[2], finished, id)
        count_error(seen, id, value, 1)
      end
      if status == 'COMPLETED' and number > 1 then call('HDEL', key, 'error') end
      expire_task(key, id, ttl, remembered)
      if seen then
        if status ~= 'CANCELLED' then count_time(seen, outcomes[at + 7]) end
        if not seen.last or finished > seen.last then seen.last = finished end
      end
    end
    if outcomes[at + 10] then call('SREM', 'nexusq:worker:' .. me .. ':parked', id) end
    answer = 1
  end
  answers[at / 10 + 1] = answer
end
write_batches(ttl_default, remembered)
if any_dead then call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. ARGV[5]) end
return answers
