-- Renews a worker's lease: while nexusq:worker:<id> is there the worker lives, and what it has started is named.
-- KEYS[1] nexusq:worker:<id>   KEYS[2] nexusq:worker:<id>:running   KEYS[3] nexusq:workers
-- ARGV[1] worker id   ARGV[2] lease in ms; 0: the worker has died, its lease ends now   ARGV[3] now in Unix seconds
-- ARGV[4] msgpack {field: value} of the lease   ARGV[5] msgpack [task id, ...] of what is running
-- returns 1 if the lease had not run out, else 0
local lasted = redis.call('EXISTS', KEYS[1])
redis.call('DEL', KEYS[2])
for _, id in ipairs(cmsgpack.unpack(ARGV[5])) do redis.call('SADD', KEYS[2], id) end
-- Read by whoever takes the tasks over, which may be much later than the lease's end.
redis.call('EXPIRE', KEYS[2], 604800)
redis.call('ZADD', KEYS[3], ARGV[3], ARGV[1])
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
  return lasted
end
for field, value in pairs(cmsgpack.unpack(ARGV[4])) do
  redis.call('HSET', KEYS[1], field, value)
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return lasted
