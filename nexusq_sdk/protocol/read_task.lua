-- Reads all of a task, or only whether it has ended: who waits for its end asks often, and the last time gets the rest.
-- KEYS[1] the task's hash   ARGV[1] "1": only if it has ended, or is not there
-- returns [its fields and values in turn, when it expires: milliseconds since 1970 or below 0], or nil
local status = redis.call('HGET', KEYS[1], 'status')
if ARGV[1] == '1' and (status == 'QUEUED' or status == 'SCHEDULED' or status == 'IN_PROGRESS') then return false end
return { redis.call('HGETALL', KEYS[1]), redis.call('PEXPIRETIME', KEYS[1]) }
