-- A number higher than every one given out before, also before Redis was flushed: the server's clock in us, or one more
-- than the last number where that is higher. A plain counter would begin at 1 again and every worker that restarts
-- under its old id would be taken for its own predecessor.
--
-- KEYS    1 last number given out (string)
-- RETURN  the number
-- TWICE   The second run gives a higher number; the first is never used.

local time = redis.call('TIME')
local epoch = math.max(tonumber(redis.call('GET', KEYS[1]) or 0) + 1, time[1] * 1000000 + time[2])
redis.call('SET', KEYS[1], string.format('%.0f', epoch))
return epoch
