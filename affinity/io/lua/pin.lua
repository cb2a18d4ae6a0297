-- Adds a pin, or removes some.
--
-- KEYS    1 pins (set of model|worker)  2 events (stream)
-- ARGV    1 SADD or SREM  2 kind of the event  3 now (epoch seconds)  4 by whom  5 model  then workers, '' for all
-- RETURN  how many have changed
-- TWICE   The second run changes nothing.

local changed = 0
for i = 6, #ARGV do
  if redis.call(ARGV[1], KEYS[1], ARGV[5] .. '|' .. ARGV[i]) == 1 then
    changed = changed + 1
    emit(KEYS[2], ARGV[2], ARGV[3], 'model', ARGV[5], 'worker', ARGV[i], 'by', ARGV[4])
  end
end
return changed
