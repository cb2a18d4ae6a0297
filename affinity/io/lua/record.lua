-- What all job scripts share; put in front of each, after MOVES (built from job.TRANSITIONS) and RATE_TAU_S.
--
-- KEYS  1 outbox (zset)  2 demand (hash)  3 events (stream)  4 retained (zset)
-- ARGV  1 prefix of all keys  2 now (epoch seconds as text)  then the script's own
--
-- Keys that hang on stored fields are derived here: job, index, queued and lease, named as in affinity.topology.Keys.
-- The state of a job and all that follows from it (indexes, demand, outbox, events) change in `move` and nowhere else,
-- so they cannot disagree.

local OUTBOX, DEMAND, EVENTS, RETAINED = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local PREFIX, NOW = ARGV[1], ARGV[2]

local EVENTS_KEPT = 10000
local PURGED_AT_ONCE = 10
local TOLD_BYTES = 16384

local RATES = PREFIX .. 'rates'

local function job_key(id) return PREFIX .. 'job:' .. id end
local function index_key(state, model) return PREFIX .. 'index:' .. state .. ':' .. model end
local function lease_key(worker) return PREFIX .. 'lease:' .. worker end

local function emit(kind, at, ...)
  redis.call('XADD', EVENTS, 'MAXLEN', '~', EVENTS_KEPT, '*', 'kind', kind, 'at', at, ...)
end

local function server_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The record without its large fields, or nil.
local function read(id)
  local v = redis.call('HMGET', job_key(id), 'state', 'model', 'created_ms', 'created_at', 'ttl_s', 'digest', 'nonce',
    'token', 'worker', 'epoch', 'attempts', 'losses', 'code', 'last_error', 'started_at')
  if not v[1] then return nil end
  return {id = id, state = v[1], model = v[2], created_ms = v[3], created_at = v[4], ttl_s = v[5] or '',
    digest = v[6] or '', nonce = v[7] or '', token = v[8] or '', worker = v[9] or '', epoch = v[10] or '',
    attempts = tonumber(v[11]), losses = tonumber(v[12]), code = v[13] or '', last_error = v[14] or '',
    started_at = v[15] or ''}
end

local function whole(id) return redis.call('HGETALL', job_key(id)) end

-- Indexes and demand of one state. Doing either twice changes nothing. The queued jobs of a model are its demand.
local function enter(job, state)
  redis.call('ZADD', index_key(state, ''), job.created_ms, job.id)
  if redis.call('ZADD', index_key(state, job.model), job.created_ms, job.id) == 1 and state == 'queued' then
    redis.call('HINCRBY', DEMAND, job.model, job.created_ms)
  end
end

local function depart(job, state)
  redis.call('ZREM', index_key(state, ''), job.id)
  if redis.call('ZREM', index_key(state, job.model), job.id) == 1 and state == 'queued' then
    if redis.call('EXISTS', index_key(state, job.model)) == 0 then
      redis.call('HDEL', DEMAND, job.model)
    else
      redis.call('HINCRBY', DEMAND, job.model, '-' .. job.created_ms)
    end
  end
end

-- The running mean of a model's arrivals, with time constant RATE_TAU_S. Kept as `rate at`: it has fallen since `at`.
-- The field without a name is when the first job ever came: means that are younger than their time constant are low.
local function count_arrival(model)
  local now_s = server_ms() / 1000
  local rate, at = string.match(redis.call('HGET', RATES, model) or '', '^(%S+) (%S+)$')
  local fallen = rate and tonumber(rate) * math.exp((tonumber(at) - now_s) / RATE_TAU_S) or 0
  if not rate then redis.call('HSETNX', RATES, '', string.format('%.3f', now_s)) end
  redis.call('HSET', RATES, model, string.format('%.9g %.3f', fallen + 1 / RATE_TAU_S, now_s))
end

-- A record for a job we know nothing of yet: queued. `nonce` is '' unless a call to create it is to be known again.
local function make(id, model, created_ms, created_at, ttl_s, digest, spec, nonce)
  redis.call('HSET', job_key(id), 'state', 'queued', 'model', model, 'created_ms', created_ms, 'created_at', created_at,
    'ttl_s', ttl_s, 'digest', digest, 'spec', spec, 'attempts', 0, 'losses', 0, 'nonce', nonce)
  redis.call('ZADD', index_key('', ''), created_ms, id)
  redis.call('ZADD', index_key('', model), created_ms, id)
  local job = {id = id, state = 'queued', model = model, created_ms = created_ms, created_at = created_at, ttl_s = ttl_s,
    digest = digest, nonce = nonce, token = '', worker = '', epoch = '', attempts = 0, losses = 0, code = '',
    last_error = '', started_at = ''}
  enter(job, 'queued')
  return job
end

-- To another state, with the fields given as name, value, ...
local function move(job, to, ...)
  if not string.find(MOVES, ' ' .. job.state .. '>' .. to .. ' ', 1, true) then
    error('INVARIANT: job ' .. job.id .. ' cannot go from ' .. job.state .. ' to ' .. to)
  end
  depart(job, job.state)
  enter(job, to)
  redis.call('HSET', job_key(job.id), 'state', to, ...)
  job.state = to
end

-- Once for each job that the broker is known to have.
local function accepted(id, model, at)
  count_arrival(model)
  emit('job.accepted', at, 'job', id, 'model', model)
end

-- The outbox tells whether that has been said.
local function accept(job, at)
  if redis.call('ZREM', OUTBOX, job.id) == 1 then accepted(job.id, job.model, at) end
end

-- Index entries of records that Redis has expired, a few at a time, so that indexes stay as short as the retention.
-- An id may have been used again since: its new entries stay.
local function purge(due_ms)
  for _, entry in ipairs(redis.call('ZRANGE', RETAINED, '-inf', '(' .. due_ms, 'BYSCORE', 'LIMIT', 0, PURGED_AT_ONCE)) do
    local state, model, id = string.match(entry, '^(%S+) (%S+) (%S+)$')
    local now_state, now_model = unpack(redis.call('HMGET', job_key(id), 'state', 'model'))
    if not now_state then redis.call('ZREM', index_key('', ''), id) end
    if now_model ~= model then redis.call('ZREM', index_key('', model), id) end
    if now_state ~= state then redis.call('ZREM', index_key(state, ''), id) end
    if now_state ~= state or now_model ~= model then redis.call('ZREM', index_key(state, model), id) end
    redis.call('ZREM', RETAINED, entry)
  end
end

-- To a terminal state, with the fields given as name, value, ... `start` and `code` are '' where there is none, `result`
-- is its JSON.
local function settle(job, to, token, retention_ms, code, start, result, ...)
  -- Whatever has started is out of the outbox.
  if job.state == 'queued' then redis.call('ZREM', OUTBOX, job.id) end
  move(job, to, 'finished_at', NOW, 'token', token, 'code', code, ...)
  local event = {'job', job.id, 'model', job.model, 'state', to, 'worker', job.worker}
  if start ~= '' then event[#event + 1] = 'start'; event[#event + 1] = start end
  if code ~= '' then event[#event + 1] = 'code'; event[#event + 1] = code end
  emit('job.settled', NOW, unpack(event))
  -- A hint for clients that wait, with the record unless it is large. The stream would wake its readers for each event.
  local text = ''
  if #result + redis.call('HSTRLEN', job_key(job.id), 'spec') <= TOLD_BYTES then
    text = cjson.encode(whole(job.id))
  end
  redis.call('PUBLISH', PREFIX .. 'settled', job.id .. ' ' .. text)
  local now_ms = server_ms()
  local due_ms = string.format('%.0f', now_ms + tonumber(retention_ms))
  redis.call('PEXPIREAT', job_key(job.id), due_ms)
  redis.call('ZADD', RETAINED, due_ms, to .. ' ' .. job.model .. ' ' .. job.id)
  purge(string.format('%.0f', now_ms))
end

-- running -> queued. `mode`: 'attempt' keeps the attempt, 'loss' counts a loss in its place, 'neither' takes it back.
-- The token stays, so that a second run of the same hand-back is known for what it is.
local function requeue(job, mode, error_json, code)
  if mode ~= 'attempt' then job.attempts = math.max(0, job.attempts - 1) end
  if mode == 'loss' then job.losses = job.losses + 1 end
  move(job, 'queued', 'attempts', job.attempts, 'losses', job.losses)
  redis.call('HDEL', job_key(job.id), 'worker', 'epoch', 'started_at')
  job.worker = ''
  if error_json ~= '' then
    redis.call('HSET', job_key(job.id), 'last_error', error_json)
    job.last_error = error_json
    emit('job.requeued', NOW, 'job', job.id, 'model', job.model, 'code', code)
  else
    emit('job.requeued', NOW, 'job', job.id, 'model', job.model)
  end
end
