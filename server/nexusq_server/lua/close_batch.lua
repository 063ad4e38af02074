-- Closes a batch whose last chunk had no rows: its size is final. Closing it twice changes nothing.
-- (The size of any other batch stands on its last task's record, so that Kafka keeps it.)
-- KEYS[1] nexusq:batch:<id>   KEYS[2] nexusq:recent
-- ARGV[1] batch id   ARGV[2] size   ARGV[3] task type   ARGV[4] queue or ""   ARGV[5] ttl seconds or ""
-- ARGV[6] submittedUs as text   ARGV[7] default ttl seconds   ARGV[8] seconds an expired id is remembered
-- returns 1
local seen = seen_batch(ARGV[1])
seen.task = { ARGV[1], ARGV[3], '', ARGV[4], ARGV[5], ARGV[6] }
seen.close = tonumber(ARGV[2])
write_batches(tonumber(ARGV[7]), tonumber(ARGV[8]))
return 1
