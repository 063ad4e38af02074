-- Takes tasks back that FAILED or were CANCELLED: due now, with all their attempts before them again.
-- KEYS[1] nexusq:due   KEYS[2] nexusq:dead
-- ARGV[1] now in µs as text   ARGV[2] default ttl seconds   ARGV[3] seconds an expired id is remembered
-- ARGV[4] msgpack [task id, ...]   ARGV[5] msgpack [status that is taken back, ...]
-- returns the number that was taken back
local taken, wanted = 0, {}
for _, status in ipairs(cmsgpack.unpack(ARGV[5])) do wanted[status] = true end
for _, id in ipairs(cmsgpack.unpack(ARGV[4])) do
  local key = 'nexusq:task:' .. id
  local state = call('HMGET', key, 'status', 'attempt', 'error')
  if state[1] and wanted[state[1]] then
    local attempt = tonumber(state[2] or 0)
    call('HSET', key, 'status', 'SCHEDULED', 'dueUs', ARGV[1], 'spent', attempt, 'record', attempt + 1, 'deliveries', 0)
    call('HDEL', key, 'finishedUs', 'startedUs', 'cancel', 'progress', 'progressText', 'log')
    call('PERSIST', key)
    call('DEL', 'nexusq:gone:' .. id)
    call('ZADD', KEYS[1], ARGV[1], id)
    local seen = seen_of(id)
    if seen then call('HDEL', seen.key, 'cancelled') end
    if state[1] == 'FAILED' then count_error(seen, id, state[3], -1) end
    move(seen, state[1], 'SCHEDULED')
    taken = taken + 1
  end
  call('ZREM', KEYS[2], id)
end
write_batches(tonumber(ARGV[2]), tonumber(ARGV[3]))
return taken
