-- How many dead letters there are, by code.
--
-- KEYS    as in record.lua
-- RETURN  {code, count, ...}; codes of which none is left have 0
-- TWICE   Reads; letters older than their retention are removed on the way.

local old = string.format('%.0f', server_ms() * 1000 - LETTER_RETENTION_S * 1000000)
for _, gone in ipairs(redis.call('ZRANGE', dead_key('', ''), '-inf', old, 'BYSCORE', 'LIMIT', 0, 1000)) do
  remove_dead(gone)
end
local answer = {}
for _, code in ipairs(redis.call('SMEMBERS', DEAD_CODES)) do
  answer[#answer + 1] = code
  answer[#answer + 1] = redis.call('ZCARD', dead_key(code, ''))
end
return answer
