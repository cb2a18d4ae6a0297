-- Running -> succeeded or failed, if this attempt still owns the job.
--
-- KEYS    as in record.lua
-- ARGV    3 id  4 token  5 state  6 retention, ms  7 start  8 load_s  9 exec_s  10 result, JSON or ''
--         11 error, JSON or ''  12 its code or ''  13 seconds charged to the tenant, '' where no account is kept
--         then more fields of the record, name, value, ...
-- RETURN  1 if the outcome is the attempt's, else 0
-- TWICE   A terminal job with our token answers 1 again; nothing is stored or said twice.

local job = read(ARGV[3])
if not job or job.token ~= ARGV[4] then return 0 end
if job.state == 'running' then
  settle(job, ARGV[5], ARGV[4], ARGV[6], ARGV[12], ARGV[7], ARGV[10], 'start', ARGV[7], 'load_s', ARGV[8],
    'exec_s', ARGV[9], 'result', ARGV[10], 'error', ARGV[11], unpack(ARGV, 14))
  if ARGV[13] ~= '' then charge(job.tenant, tonumber(ARGV[13])) end
  return 1
end
return (job.state == 'succeeded' or job.state == 'failed') and 1 or 0
