-- Ended by somebody else than an attempt: queued -> failed or cancelled, running -> cancelled.
--
-- KEYS    as in record.lua
-- ARGV    3 id  4 state  5 token of this call  6 retention, ms  7 error, JSON or ''  8 its code or ''
-- RETURN  {'missing'} | {'refused', record} | {'settled', record}
-- TWICE   The token in the record tells a second run of the same call: it answers 'settled' again.
--
-- A running job takes this call's token in place of its attempt's: whatever that attempt still says is refused from here
-- on. Its worker is told by a hint; it asks by itself as well (`cancelled.lua`), since a hint can be lost.

local id, to, token = ARGV[3], ARGV[4], ARGV[5]
local job = read(id)
if not job then return {'missing'} end
local running = job.state == 'running'
if running and to == 'cancelled' and job.tenant ~= '' then
  -- Its worker has nothing to say about it any more. With others in a batch it had a part of the GPU only.
  local beside = tonumber(redis.call('HGET', job_key(id), 'beside') or 1)
  charge(job.tenant, math.max(0, tonumber(NOW) - tonumber(job.started_at)) / beside)
end
if job.state == 'queued' or (running and to == 'cancelled') then
  settle(job, to, token, ARGV[6], ARGV[8], '', '', 'error', ARGV[7])
  if running then redis.call('PUBLISH', PREFIX .. 'wake', id) end
elseif job.state ~= to or job.token ~= token then
  return {'refused', whole(id)}
end
return {'settled', whole(id)}
