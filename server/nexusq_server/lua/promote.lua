-- Marks tasks as QUEUED that Kafka has now. One that a quick worker has claimed already is left alone, and so is one that
-- has even failed since and waits for the next attempt: that one has a record of its own, which Kafka does not have yet.
-- KEYS[1] nexusq:due
-- ARGV[1] default ttl seconds   ARGV[2] seconds an expired id is remembered   ARGV[3] msgpack [[task id, record], ...]
-- returns the number that was SCHEDULED
local promoted = 0
for _, task in ipairs(cmsgpack.unpack(ARGV[3])) do
  local id = task[1]
  local key = 'nexusq:task:' .. id
  local state = call('HMGET', key, 'status', 'record')
  if state[1] ~= 'SCHEDULED' then
    call('ZREM', KEYS[1], id)
  elseif tonumber(state[2] or 1) == task[2] then
    call('HSET', key, 'status', 'QUEUED')
    call('HDEL', key, 'dueUs')
    call('ZREM', KEYS[1], id)
    move(seen_of(id), 'SCHEDULED', 'QUEUED')
    promoted = promoted + 1
  end
end
write_batches(tonumber(ARGV[1]), tonumber(ARGV[2]))
return promoted
