-- A failed job begins a new life: queued and unpublished, as if it had just been accepted. What became of it in this
-- one is kept with it.
--
-- KEYS    as in record.lua
-- ARGV    3 id  4 created, ms  5 created, s  6 lives that are kept  7 token of this call
-- RETURN  its record, or {} where its turn has been taken by somebody else, or it has not failed (any more)
-- TWICE   The token in the record tells a second run of the same call: it answers with the record again.

local id, created_ms, created_at, kept, token = ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7]
local has_turn = redis.call('ZREM', REDRIVES, id) == 1
local job = read(id)
if job and job.state == 'queued' and job.token == token then return whole(id) end
if not has_turn or not job or job.state ~= 'failed' then return {} end

local lives, error_json, finished_at = unpack(redis.call('HMGET', job_key(id), 'lives', 'error', 'finished_at'))
lives = lives and cjson.decode(lives) or {}
-- All are texts: cjson would round the instants.
lives[#lives + 1] = {created_at = job.created_at, finished_at = finished_at, attempts = tostring(job.attempts),
  losses = tostring(job.losses), deaths = tostring(job.deaths), worker = job.worker, error = error_json}
while #lives > kept do table.remove(lives, 1) end

remove_dead(job.code .. ' ' .. job.model .. ' ' .. id)
depart(job, 'failed')
redis.call('ZREM', RETAINED, 'failed ' .. job.model .. ' ' .. id .. (job.tenant ~= '' and ' ' .. job.tenant or ''))
redis.call('PERSIST', job_key(id))
redis.call('HDEL', job_key(id), 'worker', 'epoch', 'started_at', 'finished_at', 'start', 'load_s', 'exec_s',
  'evicted', 'result', 'error', 'code', 'last_error', 'nonce')
redis.call('HSET', job_key(id), 'state', 'queued', 'created_ms', created_ms, 'created_at', created_at, 'attempts', 0,
  'losses', 0, 'deaths', 0, 'life', job.life + 1, 'lives', cjson.encode(lives),
  'token', token)

job.state, job.created_ms, job.created_at, job.not_before = 'queued', created_ms, created_at, ''
list(job)
enter(job, 'queued')
redis.call('ZADD', OUTBOX, created_ms, id)
emit('job.redriven', NOW, 'job', id, 'model', job.model, 'life', job.life + 1)
return whole(id)
