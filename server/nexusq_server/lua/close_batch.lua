-- Closes a batch: its last chunk is in, so its size is final. Closing it twice changes nothing.
-- KEYS[1] nexusq:batch:<id>   KEYS[2] nexusq:recent
-- ARGV[1] batch id   ARGV[2] size   ARGV[3] task type   ARGV[4] queue or ""   ARGV[5] ttl seconds or ""
-- ARGV[6] submittedUs as text   ARGV[7] default ttl seconds   ARGV[8] seconds an expired id is remembered
-- returns 1
if redis.call('HSETNX', KEYS[1], 'submittedUs', ARGV[6]) == 1 then
  redis.call('HSET', KEYS[1], 'taskType', ARGV[3], 'queue', ARGV[4], 'ttl', ARGV[5])
  redis.call('ZADD', KEYS[2], ARGV[6], ARGV[1])
end
redis.call('HSET', KEYS[1], 'closed', '1', 'size', ARGV[2])
local counts = redis.call('HMGET', KEYS[1], 'COMPLETED', 'FAILED', 'CANCELLED', 'lastUs')
local ended = tonumber(counts[1] or 0) + tonumber(counts[2] or 0) + tonumber(counts[3] or 0)
if ended >= tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], 'finishedUs', counts[4] or ARGV[6])
  local ttl = tonumber(ARGV[5]) or tonumber(ARGV[7])
  redis.call('EXPIRE', KEYS[1], math.ceil(ttl + tonumber(ARGV[8])))
end
return 1
