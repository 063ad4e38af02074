-- Writes the state of newly submitted tasks: QUEUED or SCHEDULED, unless somebody (a quick worker) has written one already.
-- KEYS[1] nexusq:recent
-- ARGV[1] msgpack [[task id, task type, payload JSON, queue or "", ttl seconds or "", submittedUs as text, priority or "",
--   options JSON or "", dueUs as text or "", batch's size or ""], ...]
-- ARGV[2] submittedUs before which entries of nexusq:recent are dropped, as text   ARGV[3] now in µs as text
-- ARGV[4] default ttl seconds   ARGV[5] seconds an expired id is remembered
-- returns the number of tasks whose state was written
local written = 0
local alone = {} -- when it was submitted and its id, of each task written that stands alone
for _, task in ipairs(cmsgpack.unpack(ARGV[1])) do
  local id = task[1]
  local key = 'nexusq:task:' .. id
  local seen = seen_of(id)
  -- That a task of a batch was there once, the batch says.
  local known = seen and call('EXISTS', key) or call('EXISTS', key, 'nexusq:gone:' .. id)
  if known == 0 then
    -- A delayed task is put into the due set by whoever polls its record: Kafka may be slower than Redis, never lossier.
    local status = (task[9] ~= '' and tonumber(task[9]) > tonumber(ARGV[3])) and 'SCHEDULED' or 'QUEUED'
    write_task(key, task, status)
    written = written + 1
    if seen then
      add(seen, id, task, status)
    else
      local n = #alone
      alone[n + 1], alone[n + 2] = task[6], id
    end
  end
  if seen and task[10] ~= '' then
    seen.close, seen.task = tonumber(task[10]), task
  end
end
if alone[1] then call('ZADD', KEYS[1], unpack(alone)) end
write_batches(tonumber(ARGV[4]), tonumber(ARGV[5]))
call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[2])
return written
