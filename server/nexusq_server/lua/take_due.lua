-- Takes tasks whose time has come, for producing them to Kafka. Each is moved ahead by a lease: if the taker dies before it
-- promotes them, another one takes them again.
-- KEYS[1] nexusq:due
-- ARGV[1] now in µs as text   ARGV[2] until when they are the taker's, µs as text   ARGV[3] how many at the most
-- returns [id, taskType, payload, queue, priority, options, record] a task; nil where a field is missing
local taken = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, tonumber(ARGV[3]))) do
  local state = redis.call('HMGET', 'nexusq:task:' .. id, 'status', 'taskType', 'payload', 'queue', 'priority', 'options',
    'record')
  if state[1] == 'SCHEDULED' then
    redis.call('ZADD', KEYS[1], ARGV[2], id)
    taken[#taken + 1] = { id, state[2], state[3], state[4], state[5], state[6], state[7] }
  else
    redis.call('ZREM', KEYS[1], id)
  end
end
return taken
