-- Places an order. The one that waits for the same model and worker ends as replaced.
--
-- KEYS    1 waiting orders (hash place -> id)  2 this order's record (hash)  3 events (stream)
-- ARGV    1 head of the records' keys  2 id  3 place: model|worker  4 now (epoch seconds)  5 life, ms
--         6 how long an ended one is kept, ms  7 action  8 model  9 worker  10 by whom  then the record's fields
-- RETURN  1
-- TWICE   The second run finds the order and changes nothing.

if redis.call('EXISTS', KEYS[2]) == 1 then return 1 end
local id, place, at, life_ms, kept_ms = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local before = redis.call('HGET', KEYS[1], place)
if before then
  end_order(KEYS[1], ARGV[1] .. before, KEYS[3], 'replaced', 'order ' .. id .. ' says otherwise', at, kept_ms)
end
redis.call('HSET', KEYS[2], 'expires_ms', string.format('%.0f', server_ms() + life_ms), unpack(ARGV, 11))
redis.call('PEXPIRE', KEYS[2], string.format('%.0f', life_ms + kept_ms))
redis.call('HSET', KEYS[1], place, id)
emit(KEYS[3], 'order.asked', at, 'order', id, 'action', ARGV[7], 'model', ARGV[8], 'worker', ARGV[9], 'by', ARGV[10])
return 1
