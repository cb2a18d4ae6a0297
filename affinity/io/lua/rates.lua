-- Arrival rates as they were last counted.
--
-- KEYS    1 rates (hash)
-- RETURN  {server's time in seconds as text, flat hash: model, 'rate at', ...}; see count_arrival in record.lua
-- TWICE   Reads only.

local time = redis.call('TIME')
return {time[1] .. '.' .. string.format('%06d', time[2]), redis.call('HGETALL', KEYS[1])}
