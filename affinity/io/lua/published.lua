-- The publish of a job was confirmed: out of the outbox, and job.accepted is said if nobody has said it yet.
--
-- KEYS    as in record.lua
-- ARGV    3 id
-- RETURN  1 if it was in the outbox, else 0
-- TWICE   The second run finds it gone and does nothing.

local job = read(ARGV[3])
if not job then
  return redis.call('ZREM', OUTBOX, ARGV[3])
end
local waiting = redis.call('ZSCORE', OUTBOX, job.id)
accept(job, string.format('%.3f', server_ms() / 1000))
return waiting and 1 or 0
