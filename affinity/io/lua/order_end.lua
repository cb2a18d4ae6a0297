-- Ends an order, if it waits.
--
-- KEYS    1 waiting orders (hash place -> id)  2 the order's record (hash)  3 events (stream)
-- ARGV    1 state  2 reason  3 now (epoch seconds)  4 how long it is kept, ms
-- RETURN  1 if it has ended so, 0 if it has ended otherwise or is forgotten
-- TWICE   The second run finds that it has ended so.

return end_order(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])) and 1 or 0
