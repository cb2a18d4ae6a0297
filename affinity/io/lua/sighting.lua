-- The whole fleet at one instant.
--
-- KEYS    1 workers (set)  2 models with claims (set)  3 waiting orders (hash place -> id)  4 pins (set)
--         5 events (stream)  6 workers to be drained (set)
-- ARGV    1 head of the reports' keys  2 head of the leases' keys  3 head of the claims' keys
--         4 head of the orders' records  5 how long an ended order is kept, ms
-- RETURN  {{report, epoch of the lease or '', ...}, {model, worker, ...}, {record of an order, ...}, {pin, ...},
--         {worker to be drained, ...}}
-- TWICE   Reads; members whose key has gone are taken out of the lists on the way, and orders whose life is over end.

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
local orders = {}
local listed = redis.call('HGETALL', KEYS[3])
for i = 1, #listed, 2 do
  local record = ARGV[4] .. listed[i + 1]
  local expires_ms = redis.call('HGET', record, 'expires_ms')
  local now_ms = server_ms()
  if not expires_ms then
    redis.call('HDEL', KEYS[3], listed[i])
  elseif tonumber(expires_ms) <= now_ms then
    local at = string.format('%.3f', now_ms / 1000)
    end_order(KEYS[3], record, KEYS[5], 'expired', 'it could not be carried out in time', at, tonumber(ARGV[5]))
  else
    orders[#orders + 1] = redis.call('HGETALL', record)
  end
end
return {reports, claims, orders, redis.call('SMEMBERS', KEYS[4]), redis.call('SMEMBERS', KEYS[6])}
