-- Which of these jobs have been cancelled.
--
-- KEYS    none
-- ARGV    1 head of the records' keys  then ids
-- RETURN  the ids of those
-- TWICE   Reads.

local found = {}
for i = 2, #ARGV do
  if redis.call('HGET', ARGV[1] .. ARGV[i], 'state') == 'cancelled' then found[#found + 1] = ARGV[i] end
end
return found
