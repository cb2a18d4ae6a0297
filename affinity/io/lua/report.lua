-- Publishes a worker's report and renews its lease and its GPU's.
--
-- KEYS    1 report (string)  2 workers (set)  3 lease (string)  4 GPU lease (string)
-- ARGV    1 worker  2 epoch  3 sequence  4 report, JSON  5 time to live of both leases, ms
-- RETURN  1, or 0 and nothing done if a newer epoch has reported under this id
-- TWICE   The same report replaces itself; an overtaken one renews the leases and leaves the newer report.

local epoch, sequence = tonumber(ARGV[2]), tonumber(ARGV[3])
local readable, stored = pcall(cjson.decode, redis.call('GET', KEYS[1]) or '{}')
if not readable or type(stored) ~= 'table' then stored = {} end
local stored_epoch, stored_sequence = tonumber(stored.epoch) or -1, tonumber(stored.sequence) or -1
if stored_epoch > epoch then return 0 end
if stored_epoch < epoch or stored_sequence <= sequence then redis.call('SET', KEYS[1], ARGV[4]) end
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[5])
local holder = redis.call('GET', KEYS[4])
if not holder or holder == ARGV[1] then redis.call('SET', KEYS[4], ARGV[1], 'PX', ARGV[5]) end
return 1
