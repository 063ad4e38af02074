-- Writes what handlers say of their tasks, fenced by worker and attempt. What they said last may come after their end.
-- KEYS: none: the keys are made from what ARGV names, as everywhere with one primary
-- ARGV[1] worker id   ARGV[2] msgpack [[task id, attempt, progress as text or "", its text or "", JSON of the last lines], ...]
-- returns the number of tasks that it was written to
local written, now = 0, redis.call('TIME')[1]
for _, note in ipairs(cmsgpack.unpack(ARGV[2])) do
  local key = 'nexusq:task:' .. note[1]
  local state = redis.call('HMGET', key, 'worker', 'attempt')
  if state[1] == ARGV[1] and tonumber(state[2]) == note[2] then
    if note[3] ~= '' then redis.call('HSET', key, 'progress', note[3], 'progressText', note[4]) end
    if note[5] ~= '[]' then redis.call('HSET', key, 'log', note[5]) end
    -- Which of a batch's tasks spoke last: whoever shows the batch looks at those alone.
    if #note[1] > 36 then
      local batch, said = 'nexusq:batch:' .. string.sub(note[1], 1, 36), 'nexusq:said:' .. string.sub(note[1], 1, 36)
      -- Whoever reads the batch's rows asks for what they say only if one has.
      if redis.call('EXISTS', batch) == 1 then redis.call('HSETNX', batch, 'said', '1') end
      redis.call('ZADD', said, now, note[1])
      redis.call('ZREMRANGEBYRANK', said, 0, -21)
      redis.call('EXPIRE', said, 86400)
    end
    written = written + 1
  end
end
return written
