-- Queued jobs per model. Those whose wait after a failure is over count again from now on.
--
-- KEYS    1 demand (hash)  2 delayed (zset)
-- ARGV    1 prefix of all keys
-- RETURN  {model, queued, oldest (ms), sum of instants (ms)} for each model that has any
-- TWICE   What is due is counted once.

local prefix = ARGV[1]
local DUE_AT_ONCE = 1000

local time = redis.call('TIME')
local now_ms = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
for _, id in ipairs(redis.call('ZRANGE', KEYS[2], '-inf', now_ms, 'BYSCORE', 'LIMIT', 0, DUE_AT_ONCE)) do
  local state, model, created_ms = unpack(redis.call('HMGET', prefix .. 'job:' .. id, 'state', 'model', 'created_ms'))
  if state == 'queued' and redis.call('ZADD', prefix .. 'waiting:' .. model, created_ms, id) == 1 then
    redis.call('HINCRBY', KEYS[1], model, created_ms)
  end
  redis.call('ZREM', KEYS[2], id)
end

local sums = redis.call('HGETALL', KEYS[1])
local answers = {}
for i = 1, #sums, 2 do
  local queue = prefix .. 'waiting:' .. sums[i]
  local oldest = redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES')
  if oldest[1] then
    answers[#answers + 1] = {sums[i], redis.call('ZCARD', queue), oldest[2], sums[i + 1]}
  end
end
return answers
