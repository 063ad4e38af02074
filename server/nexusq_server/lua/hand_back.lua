-- Gives tasks back that a worker has claimed and will not end: QUEUED again, no attempt charged.
-- KEYS: none
-- ARGV[1] worker id   ARGV[2] default ttl seconds   ARGV[3] seconds an expired id is remembered   ARGV[4] now in µs as text
-- ARGV[5] msgpack [[task id, attempt], ...]
-- returns the number that was this worker's
local given = 0
for _, task in ipairs(cmsgpack.unpack(ARGV[5])) do
  local id = task[1]
  local key = 'nexusq:task:' .. id
  local state = call('HMGET', key, 'status', 'worker', 'attempt', 'deliveries', 'cancel', 'ttl')
  if state[1] == 'IN_PROGRESS' and state[2] == ARGV[1] and tonumber(state[3]) == task[2] then
    given = given + 1
    if state[5] then
      call('HSET', key, 'status', 'CANCELLED', 'finishedUs', ARGV[4])
      expire_task(key, id, tonumber(state[6]) or tonumber(ARGV[2]), tonumber(ARGV[3]))
      move(seen_of(id), 'IN_PROGRESS', 'CANCELLED')
    else
      call('HSET', key, 'status', 'QUEUED', 'attempt', task[2] - 1, 'deliveries', math.max(0, (tonumber(state[4]) or 1) - 1))
      move(seen_of(id), 'IN_PROGRESS', 'QUEUED')
    end
  end
end
write_batches(tonumber(ARGV[2]), tonumber(ARGV[3]))
return given
