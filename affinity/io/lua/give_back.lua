-- Running -> queued, if this attempt still owns the job.
--
-- KEYS    as in record.lua
-- ARGV    3 id  4 token  5 mode  6 error, JSON or ''  7 its code or ''  8 not before (s) or ''  9 died '1' or '', as
--         in `requeue`  10 seconds charged to the tenant, '' where none
-- RETURN  1 if the attempt is given back, else 0
-- TWICE   A queued job with our token answers 1 again; nothing is counted or said twice.

local job = read(ARGV[3])
if not job or job.token ~= ARGV[4] then return 0 end
if job.state == 'running' then
  requeue(job, ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9])
  if ARGV[10] ~= '' then charge(job.tenant, tonumber(ARGV[10])) end
end
return job.state == 'queued' and 1 or 0
