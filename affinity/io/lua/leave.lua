-- Removes all of a worker that stops: report, lease, GPU lease and claims, unless a newer epoch lives under its id.
--
-- KEYS    1 report (string)  2 workers (set)  3 lease (string)  4 GPU lease (string)  5 models with claims (set)
-- ARGV    1 worker  2 epoch  3 head of the claims' keys
-- RETURN  1, or 0 and nothing done for the sake of the newer epoch
-- TWICE   The second run finds nothing to remove.

local worker, epoch = ARGV[1], tonumber(ARGV[2])
local readable, stored = pcall(cjson.decode, redis.call('GET', KEYS[1]) or '{}')
local reported = readable and type(stored) == 'table' and tonumber(stored.epoch) or -1
local leased = tonumber(redis.call('GET', KEYS[3]) or -1)
if reported > epoch or leased > epoch then return 0 end
redis.call('DEL', KEYS[1], KEYS[3])
redis.call('SREM', KEYS[2], worker)
if redis.call('GET', KEYS[4]) == worker then redis.call('DEL', KEYS[4]) end
for _, model in ipairs(redis.call('SMEMBERS', KEYS[5])) do
  if redis.call('GET', ARGV[3] .. model) == worker then
    redis.call('DEL', ARGV[3] .. model)
    redis.call('SREM', KEYS[5], model)
  end
end
return 1
