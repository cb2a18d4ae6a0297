-- Gives up a claim, if it is the holder's.
--
-- KEYS    1 the claim (string)  2 models with claims (set)
-- ARGV    1 holder  2 model
-- RETURN  1 if it was the holder's, else 0
-- TWICE   The second run finds nothing, or another's, and leaves it.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SREM', KEYS[2], ARGV[2])
return 1
