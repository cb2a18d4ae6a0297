-- Keeps what was measured of a model on a type of GPU.
--
-- KEYS    1 measurements (hash)
-- ARGV    1 field  2 measurement, JSON
-- RETURN  nothing
-- TWICE   The second run writes the same.

local text = ARGV[2]
local known = redis.call('HGET', KEYS[1], ARGV[1])
-- Who never loaded it from the host's memory must not take away what another worker measured.
local reload_s = known and string.match(known, '"reload_s":([%d.eE+-]+)')
if reload_s then text = string.gsub(text, '"reload_s":null', '"reload_s":' .. reload_s) end
redis.call('HSET', KEYS[1], ARGV[1], text)
