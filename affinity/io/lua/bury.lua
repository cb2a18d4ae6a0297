-- A dead letter came by that carries a job. Usually the job has failed and is listed already; else it is seen to.
--
-- KEYS    as in record.lua
-- ARGV    3 life of the job in which it was written, '' where the broker gave the delivery up  4 retention, ms
--         5 error, JSON  6 its code  7 id  8 model  9 created, ms  10 created, s  11 ttl_s or ''  12 digest
--         13 spec, JSON
-- RETURN  'listed'    the job has failed and is among the dead letters
--         'dropped'   it has ended otherwise, lives again, or runs: the letter means nothing any more
--         'stranger'  its id is that of a job with other content
-- TWICE   The second run finds the job failed.

local LIFE, RETENTION, ERROR, CODE, id = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]

local job = read(id)
if not job then
  job = make(id, ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12], ARGV[13], '')
  if LIFE ~= '' then redis.call('HSET', job_key(id), 'life', LIFE) end
elseif job.digest ~= ARGV[12] then
  return 'stranger'
end
if job.state == 'failed' then
  add_dead(job.code, job.model, id)
  return 'listed'
end
if job.state ~= 'queued' and job.state ~= 'running' then return 'dropped' end
-- Put back since. In the same life the record is older than the letter: Redis has lost what it wrote last.
if LIFE ~= '' and tonumber(LIFE) < job.life then return 'dropped' end
-- Whoever runs it has a delivery of its own.
if job.state == 'running' and redis.call('GET', lease_key(job.worker)) == job.epoch then return 'dropped' end
settle(job, 'failed', 'buried', RETENTION, CODE, '', '', 'error', ERROR)
return 'listed'
