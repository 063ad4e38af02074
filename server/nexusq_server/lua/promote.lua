-- Marks tasks as QUEUED that Kafka has now. One that a quick worker has claimed already is left alone.
-- KEYS[1] nexusq:due
-- ARGV[1] default ttl seconds   ARGV[2] seconds an expired id is remembered   ARGV[3] msgpack [task id, ...]
-- returns the number that was SCHEDULED
local promoted = 0
for _, id in ipairs(cmsgpack.unpack(ARGV[3])) do
  local key = 'nexusq:task:' .. id
  if redis.call('HGET', key, 'status') == 'SCHEDULED' then
    redis.call('HSET', key, 'status', 'QUEUED')
    redis.call('HDEL', key, 'dueUs')
    move(id, 'SCHEDULED', 'QUEUED')
    promoted = promoted + 1
  end
  redis.call('ZREM', KEYS[1], id)
end
write_batches(tonumber(ARGV[1]), tonumber(ARGV[2]))
return promoted
