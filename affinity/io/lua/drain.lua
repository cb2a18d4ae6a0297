-- Adds the wish that a worker be drained, or takes it back.
--
-- KEYS    1 drains (set of workers)  2 events (stream)
-- ARGV    1 SADD or SREM  2 kind of the event  3 now (epoch seconds)  4 by whom  5 worker
-- RETURN  1 if that has changed something, else 0
-- TWICE   The second run changes nothing.

local changed = redis.call(ARGV[1], KEYS[1], ARGV[5])
if changed == 1 then emit(KEYS[2], ARGV[2], ARGV[3], 'worker', ARGV[5], 'by', ARGV[4]) end
return changed
