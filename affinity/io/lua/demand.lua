-- Queued jobs per model.
--
-- KEYS    1 demand (hash)
-- ARGV    1 prefix of all keys
-- RETURN  {model, queued, oldest (ms), sum of instants (ms)} for each model that has any
-- TWICE   Reads only.

local prefix = ARGV[1]
local sums = redis.call('HGETALL', KEYS[1])
local answers = {}
for i = 1, #sums, 2 do
  local queue = prefix .. 'index:queued:' .. sums[i]
  local oldest = redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES')
  if oldest[1] then
    answers[#answers + 1] = {sums[i], redis.call('ZCARD', queue), oldest[2], sums[i + 1]}
  end
end
return answers
