-- Keeps a dead letter that is no job.
--
-- KEYS    as in record.lua
-- ARGV    3 id, which begins with ~  4 code  5 model  then fields of the letter, name, value, ...
-- RETURN  1
-- TWICE   The second run writes the same.

local id = ARGV[3]
redis.call('HSET', letter_key(id), 'id', id, 'code', ARGV[4], 'model', ARGV[5], unpack(ARGV, 6))
redis.call('PEXPIRE', letter_key(id), LETTER_RETENTION_S * 1000)
add_dead(ARGV[4], ARGV[5], id)
return 1
