-- Gives a batch a name, unless another batch has it: atomically, so that two who race submit one batch.
-- KEYS[1] nexusq:name:<name>   KEYS[2] nexusq:batch:<id> of the one that is to have it
-- ARGV[1] name   ARGV[2] batch id   ARGV[3] digest of its inputs   ARGV[4] 1: take the name away from whoever has it
-- ARGV[5] seconds that a name is kept for a batch of which no task comes
-- returns the batch id and the digest that the name stands for now
local has = redis.call('HMGET', KEYS[1], 'batchId', 'digest')
if has[1] and has[1] ~= ARGV[2] then
  if ARGV[4] ~= '1' then return has end
  -- It is no longer the other one's: nor does it go with it.
  redis.call('HDEL', 'nexusq:batch:' .. has[1], 'name')
end
redis.call('HSET', KEYS[1], 'batchId', ARGV[2], 'digest', ARGV[3])
redis.call('HSET', KEYS[2], 'name', ARGV[1])
if redis.call('HEXISTS', KEYS[2], 'submittedUs') == 1 then
  local left = redis.call('PTTL', KEYS[2])
  if left > 0 then redis.call('PEXPIRE', KEYS[1], left) else redis.call('PERSIST', KEYS[1]) end
else
  redis.call('EXPIRE', KEYS[1], ARGV[5])
  redis.call('EXPIRE', KEYS[2], ARGV[5])
end
return { ARGV[2], ARGV[3] }
