-- Queued jobs per model, and once more per lane of a tenant. Those whose wait after a failure is over count again from now on.
--
-- KEYS    1 demand (hash)  2 delayed (zset)
-- ARGV    1 prefix of all keys
-- RETURN  {model or lane, queued, oldest (ms), sum of instants (ms)} for each that has any; where a lane has, one more:
--         {'', server's time (s), accounts (flat hash: tenant, 'used at total', ...), shares (flat hash)}
-- TWICE   What is due is counted once.

local prefix = ARGV[1]
local DUE_AT_ONCE = 1000

local function await(lane, id, created_ms)
  if redis.call('ZADD', prefix .. 'waiting:' .. lane, created_ms, id) == 1 then
    redis.call('HINCRBY', KEYS[1], lane, created_ms)
  end
end

local time = redis.call('TIME')
local now_ms = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
for _, id in ipairs(redis.call('ZRANGE', KEYS[2], '-inf', now_ms, 'BYSCORE', 'LIMIT', 0, DUE_AT_ONCE)) do
  local job = prefix .. 'job:' .. id
  local state, model, created_ms, tenant = unpack(redis.call('HMGET', job, 'state', 'model', 'created_ms', 'tenant'))
  if state == 'queued' then
    await(model, id, created_ms)
    if tenant then await(model .. '@' .. tenant, id, created_ms) end
  end
  redis.call('ZREM', KEYS[2], id)
end

local sums = redis.call('HGETALL', KEYS[1])
local answers, shared = {}, false
for i = 1, #sums, 2 do
  local queue = prefix .. 'waiting:' .. sums[i]
  local oldest = redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES')
  if oldest[1] then
    answers[#answers + 1] = {sums[i], redis.call('ZCARD', queue), oldest[2], sums[i + 1]}
    shared = shared or string.find(sums[i], '@', 1, true)
  end
end
if shared then
  local now_s = string.format('%.3f', tonumber(now_ms) / 1000)
  answers[#answers + 1] = {'', now_s, redis.call('HGETALL', prefix .. 'used'), redis.call('HGETALL', prefix .. 'shares')}
end
return answers
