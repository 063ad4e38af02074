-- Cancels tasks: at once where they wait; where they run, their worker is told.
-- KEYS[1] nexusq:due
-- ARGV[1] now in µs as text   ARGV[2] default ttl seconds   ARGV[3] seconds an expired id is remembered
-- ARGV[4] msgpack [task id, ...]
-- returns the status of each afterwards, "" where there is no such task
local answers = {}
for i, id in ipairs(cmsgpack.unpack(ARGV[4])) do
  local key = 'nexusq:task:' .. id
  local state = call('HMGET', key, 'status', 'worker', 'ttl')
  local status = state[1]
  if status == 'QUEUED' or status == 'SCHEDULED' then
    call('HSET', key, 'status', 'CANCELLED', 'finishedUs', ARGV[1])
    call('ZREM', KEYS[1], id)
    expire_task(key, id, tonumber(state[3]) or tonumber(ARGV[2]), tonumber(ARGV[3]))
    local seen = seen_of(id)
    move(seen, status, 'CANCELLED')
    if seen then seen.last = ARGV[1] end
    status = 'CANCELLED'
  elseif status == 'IN_PROGRESS' then
    call('HSET', key, 'cancel', '1')
    call('SADD', 'nexusq:worker:' .. state[2] .. ':cancel', id)
    call('EXPIRE', 'nexusq:worker:' .. state[2] .. ':cancel', 86400)
  end
  answers[i] = status or ''
end
write_batches(tonumber(ARGV[2]), tonumber(ARGV[3]))
return answers
