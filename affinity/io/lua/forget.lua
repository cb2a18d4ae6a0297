-- Removes a lost worker's report, unless the worker has come back.
--
-- KEYS    1 report (string)  2 workers (set)  3 lease (string)  4 right to tidy up (string)
-- ARGV    1 worker  2 epoch and 3 sequence of the report that was tidied up after
-- RETURN  1 if nothing is left of it, else 0
-- TWICE   The second run finds no report and answers 1.

-- Also where the worker is back: whoever notices its next death must not wait for this right to run out.
redis.call('DEL', KEYS[4])
if redis.call('EXISTS', KEYS[3]) == 1 then return 0 end
local readable, stored = pcall(cjson.decode, redis.call('GET', KEYS[1]) or '{}')
if readable and type(stored) == 'table' then
  local epoch, sequence = tonumber(stored.epoch) or -1, tonumber(stored.sequence) or -1
  if epoch > tonumber(ARGV[2]) or (epoch == tonumber(ARGV[2]) and sequence > tonumber(ARGV[3])) then return 0 end
end
redis.call('DEL', KEYS[1])
redis.call('SREM', KEYS[2], ARGV[1])
return 1
