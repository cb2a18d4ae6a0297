-- What all job scripts share; put in front of each, after the constants of `job_store.prelude`.
--
-- KEYS  1 outbox (zset)  2 demand (hash)  3 events (stream)  4 retained (zset)
-- ARGV  1 prefix of all keys  2 now (epoch seconds as text)  then the script's own
--
-- Keys that hang on stored fields are derived here: job, index, queued, held and lease, named as in affinity.topology.Keys.
-- The state of a job and all that follows from it (indexes, demand, outbox, events) change in `move` and nowhere else,
-- so they cannot disagree.

local OUTBOX, DEMAND, EVENTS, RETAINED = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local PREFIX, NOW = ARGV[1], ARGV[2]

local EVENTS_KEPT = 10000
local PURGED_AT_ONCE = 10
local TOLD_BYTES = 16384

local RATES = PREFIX .. 'rates'
local USED = PREFIX .. 'used'
local DRAINED = PREFIX .. 'drained'
local DELAYED = PREFIX .. 'delayed'
local REDRIVES = PREFIX .. 'redrives'
local DEAD_CODES = PREFIX .. 'dead_codes'

local function job_key(id) return PREFIX .. 'job:' .. id end
local function index_key(state, model) return PREFIX .. 'index:' .. state .. ':' .. model end
local function tenant_key(tenant, state, model) return PREFIX .. 'tenant:' .. tenant .. ':' .. state .. ':' .. model end
local function waiting_key(lane) return PREFIX .. 'waiting:' .. lane end
local function lane_of(job) return job.model .. '@' .. job.tenant end
local function dead_key(code, model) return PREFIX .. 'dead:' .. code .. ':' .. model end
local function letter_key(id) return PREFIX .. 'letter:' .. id end
local function held_key(worker) return PREFIX .. 'held:' .. worker end
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
    'token', 'worker', 'epoch', 'attempts', 'losses', 'code', 'last_error', 'started_at', 'tenant', 'deaths',
    'not_before', 'life')
  if not v[1] then return nil end
  return {id = id, state = v[1], model = v[2], created_ms = v[3], created_at = v[4], ttl_s = v[5] or '',
    digest = v[6] or '', nonce = v[7] or '', token = v[8] or '', worker = v[9] or '', epoch = v[10] or '',
    attempts = tonumber(v[11]), losses = tonumber(v[12]), code = v[13] or '', last_error = v[14] or '',
    started_at = v[15] or '', tenant = v[16] or '', deaths = tonumber(v[17] or 0), not_before = v[18] or '',
    life = tonumber(v[19] or 0)}
end

local function whole(id) return redis.call('HGETALL', job_key(id)) end

-- A job counts as demand of its model, and so does one of a tenant's of its lane.
local function await(lane, job)
  if redis.call('ZADD', waiting_key(lane), job.created_ms, job.id) == 1 then
    redis.call('HINCRBY', DEMAND, lane, job.created_ms)
  end
end

local function unawait(lane, job)
  if redis.call('ZREM', waiting_key(lane), job.id) == 0 then return end
  if redis.call('EXISTS', waiting_key(lane)) == 0 then
    redis.call('HDEL', DEMAND, lane)
  else
    redis.call('HINCRBY', DEMAND, lane, '-' .. job.created_ms)
  end
end

-- Indexes and demand of one state. Doing either twice changes nothing. The queued jobs of a model are its demand, but
-- for those that are not to run yet: nobody shall load a model for them. `demand.lua` adds them once they are due.
local function enter(job, state)
  redis.call('ZADD', index_key(state, ''), job.created_ms, job.id)
  redis.call('ZADD', index_key(state, job.model), job.created_ms, job.id)
  if state == 'queued' and job.not_before ~= '' then
    redis.call('ZADD', DELAYED, string.format('%.0f', tonumber(job.not_before) * 1000), job.id)
  elseif state == 'queued' then
    await(job.model, job)
    if job.tenant ~= '' then await(lane_of(job), job) end
  end
  if state == 'running' then redis.call('SADD', held_key(job.worker), job.id) end
  if job.tenant ~= '' then
    redis.call('ZADD', tenant_key(job.tenant, state, ''), job.created_ms, job.id)
    redis.call('ZADD', tenant_key(job.tenant, state, job.model), job.created_ms, job.id)
  end
end

local function depart(job, state)
  redis.call('ZREM', index_key(state, ''), job.id)
  redis.call('ZREM', index_key(state, job.model), job.id)
  if state == 'running' then redis.call('SREM', held_key(job.worker), job.id) end
  if state == 'queued' and job.not_before ~= '' then redis.call('ZREM', DELAYED, job.id) end
  if state == 'queued' then
    unawait(job.model, job)
    if job.tenant ~= '' then unawait(lane_of(job), job) end
  end
  if job.tenant ~= '' then
    redis.call('ZREM', tenant_key(job.tenant, state, ''), job.id)
    redis.call('ZREM', tenant_key(job.tenant, state, job.model), job.id)
  end
end

-- Into the indexes of all states; their entries are moved where they are there.
local function list(job)
  redis.call('ZADD', index_key('', ''), job.created_ms, job.id)
  redis.call('ZADD', index_key('', job.model), job.created_ms, job.id)
  if job.tenant ~= '' then
    redis.call('ZADD', tenant_key(job.tenant, '', ''), job.created_ms, job.id)
    redis.call('ZADD', tenant_key(job.tenant, '', job.model), job.created_ms, job.id)
  end
end

-- Out of the indexes of all states.
local function unlist(tenant, model, id)
  redis.call('ZREM', index_key('', ''), id)
  redis.call('ZREM', index_key('', model), id)
  if tenant ~= '' then
    redis.call('ZREM', tenant_key(tenant, '', ''), id)
    redis.call('ZREM', tenant_key(tenant, '', model), id)
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

-- Seconds of a GPU's time, to a tenant's account ('': nobody's). Kept as `used at total`: `used` fades from `at` on, with
-- time constant USED_TAU_S.
local function charge(tenant, seconds)
  local now_s = server_ms() / 1000
  local used, at, total = string.match(redis.call('HGET', USED, tenant) or '', '^(%S+) (%S+) (%S+)$')
  local left = used and tonumber(used) * math.exp((tonumber(at) - now_s) / USED_TAU_S) or 0
  redis.call('HSET', USED, tenant, string.format('%.9g %.3f %.17g', left + seconds, now_s, (total or 0) + seconds))
end

-- A record for a job we know nothing of yet: queued. `nonce` is '' unless a call to create it is to be known again.
local function make(id, model, created_ms, created_at, ttl_s, digest, spec, nonce)
  redis.call('HSET', job_key(id), 'state', 'queued', 'model', model, 'created_ms', created_ms, 'created_at', created_at,
    'ttl_s', ttl_s, 'digest', digest, 'spec', spec, 'attempts', 0, 'losses', 0, 'nonce', nonce)
  -- wire.spec_to_json puts it first, where no text of the producer's can be taken for it.
  local tenant = string.match(spec, '^{"tenant":"([%w._-]+)",') or ''
  if tenant ~= '' then redis.call('HSET', job_key(id), 'tenant', tenant) end
  local job = {id = id, state = 'queued', model = model, created_ms = created_ms, created_at = created_at, ttl_s = ttl_s,
    digest = digest, nonce = nonce, token = '', worker = '', epoch = '', attempts = 0, losses = 0, code = '',
    last_error = '', started_at = '', tenant = tenant, deaths = 0, not_before = '', life = 0}
  list(job)
  enter(job, 'queued')
  return job
end

-- To another state, with the fields given as name, value, ...
local function move(job, to, ...)
  if not string.find(MOVES, ' ' .. job.state .. '>' .. to .. ' ', 1, true) then
    error('INVARIANT: job ' .. job.id .. ' cannot go from ' .. job.state .. ' to ' .. to)
  end
  if job.state == 'queued' then
    -- How fast queues empty: what Retry-After is computed from.
    redis.call('HINCRBY', DRAINED, job.model, 1)
    if job.tenant ~= '' then redis.call('HINCRBY', DRAINED, '@' .. job.tenant, 1) end
  end
  depart(job, job.state)
  if job.state == 'queued' and job.not_before ~= '' then
    job.not_before = ''
    redis.call('HDEL', job_key(job.id), 'not_before')
  end
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

-- Out of the indexes named by `key`, as far as the record that is there now (nil: none) does not belong into them.
local function purge_from(key, id, state, model, now_state, now_model)
  if not now_state then redis.call('ZREM', key('', ''), id) end
  if now_model ~= model then redis.call('ZREM', key('', model), id) end
  if now_state ~= state then redis.call('ZREM', key(state, ''), id) end
  if now_state ~= state or now_model ~= model then redis.call('ZREM', key(state, model), id) end
end

-- Index entries of records that Redis has expired, a few at a time, so that indexes stay as short as the retention.
-- An id may have been used again since: its new entries stay.
local function purge(due_ms)
  for _, entry in ipairs(redis.call('ZRANGE', RETAINED, '-inf', '(' .. due_ms, 'BYSCORE', 'LIMIT', 0, PURGED_AT_ONCE)) do
    local state, model, id, tenant = string.match(entry, '^(%S+) (%S+) (%S+) ?(%S*)$')
    local now_state, now_model, now_tenant = unpack(redis.call('HMGET', job_key(id), 'state', 'model', 'tenant'))
    purge_from(index_key, id, state, model, now_state or nil, now_model)
    if tenant ~= '' then
      if now_tenant ~= tenant then now_state, now_model = nil, nil end
      purge_from(function(s, m) return tenant_key(tenant, s, m) end, id, state, model, now_state or nil, now_model)
    end
    redis.call('ZREM', RETAINED, entry)
  end
end

-- Out of the dead letters. The indexes follow from the entry itself.
local function remove_dead(entry)
  local code, model = string.match(entry, '^(%S+) (%S+) ')
  for _, key in ipairs({dead_key('', ''), dead_key(code, ''), dead_key('', model), dead_key(code, model)}) do
    redis.call('ZREM', key, entry)
  end
end

-- Among the dead letters. Their places are microseconds, and unique: a page goes on behind one. What is older than the
-- retention leaves, a few at a time.
local function add_dead(code, model, id)
  local entry, now_us = code .. ' ' .. model .. ' ' .. id, server_ms() * 1000
  if redis.call('ZSCORE', dead_key('', ''), entry) then return end
  local last = redis.call('ZRANGE', dead_key('', ''), -1, -1, 'WITHSCORES')[2]
  local place = string.format('%.0f', math.max(now_us, tonumber(last or 0) + 1))
  redis.call('SADD', DEAD_CODES, code)
  for _, key in ipairs({dead_key('', ''), dead_key(code, ''), dead_key('', model), dead_key(code, model)}) do
    redis.call('ZADD', key, place, entry)
  end
  local old = string.format('%.0f', now_us - LETTER_RETENTION_S * 1000000)
  for _, gone in ipairs(redis.call('ZRANGE', dead_key('', ''), '-inf', old, 'BYSCORE', 'LIMIT', 0, PURGED_AT_ONCE)) do
    remove_dead(gone)
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
  local kept_ms = tonumber(retention_ms)
  if to == 'failed' then
    kept_ms = math.max(kept_ms, LETTER_RETENTION_S * 1000)
    add_dead(code, job.model, job.id)
  end
  local due_ms = string.format('%.0f', now_ms + kept_ms)
  redis.call('PEXPIREAT', job_key(job.id), due_ms)
  local tenant = job.tenant ~= '' and ' ' .. job.tenant or ''
  redis.call('ZADD', RETAINED, due_ms, to .. ' ' .. job.model .. ' ' .. job.id .. tenant)
  purge(string.format('%.0f', now_ms))
end

-- running -> queued. `mode`: 'attempt' keeps the attempt, 'loss' counts a loss in its place, 'neither' takes it back.
-- `not_before`: s, where it is not to run yet; `died`: with its executor. Either may be left out.
-- The token stays, so that a second run of the same hand-back is known for what it is.
local function requeue(job, mode, error_json, code, not_before, died)
  if mode ~= 'attempt' then job.attempts = math.max(0, job.attempts - 1) end
  if mode == 'loss' then job.losses = job.losses + 1 end
  if died == '1' then job.deaths = job.deaths + 1 end
  job.not_before = not_before or ''
  move(job, 'queued', 'attempts', job.attempts, 'losses', job.losses, 'deaths', job.deaths)
  if job.not_before ~= '' then redis.call('HSET', job_key(job.id), 'not_before', job.not_before) end
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
