-- Drops a dead letter that is no job.
--
-- KEYS    as in record.lua
-- ARGV    3 id, which begins with ~
-- RETURN  1 if it was there, else 0
-- TWICE   The second run finds nothing.

local id = ARGV[3]
local code, model = unpack(redis.call('HMGET', letter_key(id), 'code', 'model'))
redis.call('ZREM', REDRIVES, id)
if not code then return 0 end
remove_dead(code .. ' ' .. model .. ' ' .. id)
redis.call('DEL', letter_key(id))
return 1
