-- Charges seconds of a GPU's time that no attempt of a job stands for: a load's.
--
-- KEYS    as in record.lua
-- ARGV    3 token of this call  4 tenant, '' for nobody's  5 seconds  6 how long the token is remembered, ms
-- RETURN  1 if it was charged now, else 0
-- TWICE   The token tells a second run of the same call: nothing is charged twice.

if not redis.call('SET', PREFIX .. 'charged:' .. ARGV[3], '1', 'NX', 'PX', ARGV[6]) then return 0 end
charge(ARGV[4], tonumber(ARGV[5]))
return 1
