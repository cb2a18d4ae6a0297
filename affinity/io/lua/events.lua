-- Events after an id, and from where to where the stream reaches, all of one instant.
--
-- KEYS    1 events (stream)
-- ARGV    1 id, or '' for none of them  2 most events
-- RETURN  {first id, last id, {{id, {field, value, ...}}, ...}}; without any event in the stream {'', '', {}}
-- TWICE   Reads only.

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
if #last == 0 then return {'', '', {}} end
local first = redis.call('XREAD', 'COUNT', 1, 'STREAMS', KEYS[1], '0-0')
local found
if ARGV[1] ~= '' then found = redis.call('XREAD', 'COUNT', ARGV[2], 'STREAMS', KEYS[1], ARGV[1]) end
return {first[1][2][1][1], last[1][1], found and found[1][2] or {}}
