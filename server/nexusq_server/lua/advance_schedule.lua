-- Moves a schedule on to its next tick, unless another scheduler has, or the schedule is not what was read any more.
-- KEYS[1] nexusq:schedules   KEYS[2] nexusq:schedule-due   KEYS[3] nexusq:schedule-last
-- ARGV[1] schedule's name   ARGV[2] the tick that was read, Unix seconds as text   ARGV[3] SHA-1 of the JSON that was read
-- ARGV[4] next tick as text, "" for none any more   ARGV[5] "<tick> <task id>" of what was submitted, "" for nothing
-- returns 1: moved; 0: not its tick any more; -1: it was replaced meanwhile; -2: there is no such schedule
local name = ARGV[1]
local schedule = redis.call('HGET', KEYS[1], name)
if not schedule then
  redis.call('ZREM', KEYS[2], name)
  return -2
end
local tick = redis.call('ZSCORE', KEYS[2], name)
if not tick or tonumber(tick) ~= tonumber(ARGV[2]) then return 0 end
if redis.sha1hex(schedule) ~= ARGV[3] then return -1 end
if ARGV[4] == '' then
  redis.call('ZREM', KEYS[2], name)
else
  redis.call('ZADD', KEYS[2], ARGV[4], name)
end
if ARGV[5] ~= '' then redis.call('HSET', KEYS[3], name, ARGV[5]) end
return 1
