-- Compare-and-set to running for several deliveries, in order.
--
-- KEYS    as in record.lua
-- ARGV    3 losses allowed  4 retention, ms  5 error of a lost worker, JSON  6 its code
--         7 error of a job lost too often, JSON with the text LAST where the last loss is to be named  8 its code
--         then 10 for each attempt: token, worker, epoch, id, model, created (ms), created (s), ttl_s or '', digest, spec
-- RETURN  for each attempt {verdict, record}; the verdicts are those of ports.Verdict. A started job has only the fields
--         its caller does not know
-- TWICE   A running job with our token answers 'started' again, one that this token expired or gave up answers the same
--         verdict again. Nothing is counted twice.

local MAX_LOSSES, RETENTION = tonumber(ARGV[3]), ARGV[4]
local BESIDE = (#ARGV - 8) / 10  -- Jobs in this batch, for `end_early`: a cancelled job is charged its part.
local LOST, LOST_CODE, EXHAUSTED, EXHAUSTED_CODE = ARGV[5], ARGV[6], ARGV[7], ARGV[8]

local function verdict_on_ended(job, token)
  if job.token == token and job.state == 'expired' then return 'expired' end
  if job.token == token and job.code == EXHAUSTED_CODE then return 'exhausted' end
  return 'finished'
end

-- A job that lost its worker has started in time, and starts again whatever time that took.
local function overdue(job)
  local waited = job.not_before ~= '' or (job.attempts == 0 and job.losses == 0)
  return job.ttl_s ~= '' and waited
    and tonumber(NOW) > tonumber(job.created_at) + tonumber(job.ttl_s)
end

local function exhausted_error(job)
  local last = string.match(job.last_error, '"code":"([%w_]+)"') or 'unknown'
  return (string.gsub(EXHAUSTED, 'LAST', last))
end

local function begin(job, token, worker, epoch)
  if overdue(job) then
    settle(job, 'expired', token, RETENTION, '', '', '')
    return 'expired'
  end
  if job.losses >= MAX_LOSSES then
    settle(job, 'failed', token, RETENTION, EXHAUSTED_CODE, '', '', 'error', exhausted_error(job))
    return 'exhausted'
  end
  if job.not_before ~= '' and tonumber(NOW) < tonumber(job.not_before) - DUE_SLACK_S then return 'delayed' end
  job.attempts, job.worker, job.started_at = job.attempts + 1, worker, NOW
  move(job, 'running', 'token', token, 'worker', worker, 'epoch', epoch, 'started_at', NOW, 'attempts', job.attempts)
  if job.tenant ~= '' then redis.call('HSET', job_key(job.id), 'beside', BESIDE) end
  emit('job.started', NOW, 'job', job.id, 'model', job.model, 'worker', worker, 'attempt', job.attempts)
  return 'started'
end

local function verdict_on(job, token, worker, epoch)
  accept(job, NOW)
  if job.state == 'running' then
    if job.token == token then return 'started' end
    if redis.call('GET', lease_key(job.worker)) == job.epoch then return 'held' end
    requeue(job, 'loss', LOST, LOST_CODE)
  end
  if job.state ~= 'queued' then return verdict_on_ended(job, token) end
  return begin(job, token, worker, epoch)
end

local function start(token, worker, epoch, id, model, created_ms, created_at, ttl_s, digest, spec)
  local job = read(id)
  if not job then
    job = make(id, model, created_ms, created_at, ttl_s, digest, spec, '')
    accepted(id, model, NOW)
  elseif job.digest ~= digest then
    return {'stranger', whole(id)}
  end
  local verdict = verdict_on(job, token, worker, epoch)
  if verdict == 'started' then
    return {verdict, {'created_at', job.created_at, 'started_at', job.started_at, 'worker', job.worker,
      'attempts', tostring(job.attempts), 'losses', tostring(job.losses), 'deaths', tostring(job.deaths),
      'life', tostring(job.life)}}
  end
  return {verdict, whole(id)}
end

local answers = {}
for i = 9, #ARGV, 10 do
  answers[#answers + 1] = start(unpack(ARGV, i, i + 9))
end
return answers
