-- Queued -> cancelled or failed: the job never starts.
--
-- KEYS    as in record.lua
-- ARGV    3 id  4 state  5 token of this call  6 retention, ms  7 error, JSON or ''  8 its code or ''
-- RETURN  {'missing'} | {'refused', record} | {'settled', record}
-- TWICE   The token in the record tells a second run of the same call: it answers 'settled' again.

local id, to, token = ARGV[3], ARGV[4], ARGV[5]
local job = read(id)
if not job then return {'missing'} end
if job.state == 'queued' then
  settle(job, to, token, ARGV[6], ARGV[8], '', '', 'error', ARGV[7])
elseif job.state ~= to or job.token ~= token then
  return {'refused', whole(id)}
end
return {'settled', whole(id)}
