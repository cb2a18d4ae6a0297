-- The whole fleet at one instant.
--
-- KEYS    1 workers (set)  2 models with claims (set)
-- ARGV    1 head of the reports' keys  2 head of the leases' keys  3 head of the claims' keys
-- RETURN  {{report, epoch of the lease or '', ...}, {model, worker, ...}}
-- TWICE   Reads; members whose key has gone are taken out of the two sets on the way.

local reports, claims = {}, {}
for _, worker in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local report = redis.call('GET', ARGV[1] .. worker)
  if report then
    reports[#reports + 1] = report
    reports[#reports + 1] = redis.call('GET', ARGV[2] .. worker) or ''
  else
    redis.call('SREM', KEYS[1], worker)
  end
end
for _, model in ipairs(redis.call('SMEMBERS', KEYS[2])) do
  local worker = redis.call('GET', ARGV[3] .. model)
  if worker then
    claims[#claims + 1] = model
    claims[#claims + 1] = worker
  else
    redis.call('SREM', KEYS[2], model)
  end
end
return {reports, claims}
