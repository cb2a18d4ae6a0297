-- A delivery of a job was seen: make its record if there is none, and see that it counts as demand while queued.
--
-- KEYS    as in record.lua
-- ARGV    3 id  4 model  5 created, ms  6 created, s  7 ttl_s or ''  8 digest  9 spec, JSON
-- RETURN  {'conflict'} | {'seen', record}
-- TWICE   The second run finds the record and changes nothing.

local id, digest = ARGV[3], ARGV[8]
local job = read(id)
if not job then
  job = make(id, ARGV[4], ARGV[5], ARGV[6], ARGV[7], digest, ARGV[9], '')
  accepted(id, job.model, NOW)
elseif job.digest ~= digest then
  return {'conflict'}
else
  accept(job, NOW)
  if job.state == 'queued' then enter(job, 'queued') end
end
return {'seen', whole(id)}
