-- The publish of a job was refused: forget it, unless somebody has published or started it.
--
-- KEYS    as in record.lua
-- ARGV    3 id
-- RETURN  1 if nothing is left of it, else 0
-- TWICE   The second run finds no record and answers 1.

local job = read(ARGV[3])
if not job then return 1 end
-- Whatever starts, settles or sees a delivery of a job takes it out of the outbox.
if redis.call('ZREM', OUTBOX, job.id) == 0 then return 0 end
depart(job, job.state)
unlist(job.tenant, job.model, job.id)
redis.call('DEL', job_key(job.id))
return 1
