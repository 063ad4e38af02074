-- Renews a worker's lease: while nexusq:worker:<id> is there the worker lives, and what it has started is named.
-- KEYS[1] nexusq:worker:<id>   KEYS[2] nexusq:worker:<id>:running   KEYS[3] nexusq:workers
-- ARGV[1] worker id   ARGV[2] lease in ms   ARGV[3] now in Unix seconds
-- ARGV[4] msgpack {field: value} of the lease   ARGV[5] msgpack [task id, ...] of what is running
-- returns 1
for field, value in pairs(cmsgpack.unpack(ARGV[4])) do
  redis.call('HSET', KEYS[1], field, value)
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('DEL', KEYS[2])
local running = cmsgpack.unpack(ARGV[5])
for _, id in ipairs(running) do redis.call('SADD', KEYS[2], id) end
-- Read by whoever takes the tasks over, which may be much later than the lease's end.
redis.call('EXPIRE', KEYS[2], 604800)
redis.call('ZADD', KEYS[3], ARGV[3], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', tonumber(ARGV[3]) - 86400)
return 1
