-- Takes or renews a key with a time to live for one holder: GPU leases, claims, the right to tidy up.
--
-- KEYS    1 the key (string)  2 a set in which what is held is listed (claims only)
-- ARGV    1 holder  2 time to live, ms  3 the entry for the set (claims only)
-- RETURN  1 if the holder has it now, 0 while another has it
-- TWICE   The second run renews.

local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if KEYS[2] then redis.call('SADD', KEYS[2], ARGV[3]) end
return 1
