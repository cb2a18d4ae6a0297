-- Running jobs of a worker whose lease is gone go back to queued, so that they count as demand again.
--
-- KEYS    as in record.lua
-- ARGV    3 worker  4 error of a lost worker, JSON  5 its code
-- RETURN  how many
-- TWICE   Jobs that are queued already are not looked at; nothing is counted twice.

local WORKER, LOST, LOST_CODE = ARGV[3], ARGV[4], ARGV[5]
local alive = redis.call('GET', lease_key(WORKER))

local reclaimed = 0
for _, id in ipairs(redis.call('ZRANGE', index_key('running', ''), 0, -1)) do
  local job = read(id)
  if job and job.state == 'running' and job.worker == WORKER and job.epoch ~= alive then
    requeue(job, 'loss', LOST, LOST_CODE)
    reclaimed = reclaimed + 1
  end
end
return reclaimed
