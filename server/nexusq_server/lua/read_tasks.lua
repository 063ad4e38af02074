-- Reads fields of many tasks in one call.
-- KEYS: none: the keys are made from what ARGV names, as everywhere with one primary
-- ARGV[1] msgpack [task id, ...]   ARGV[2] msgpack [field, ...]
-- returns a list of values a task, nil where a field or the whole task is missing
local fields = cmsgpack.unpack(ARGV[2])
local rows = {}
for i, id in ipairs(cmsgpack.unpack(ARGV[1])) do
  rows[i] = redis.call('HMGET', 'nexusq:task:' .. id, unpack(fields))
end
return rows
