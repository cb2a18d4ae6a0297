-- Sees that dead letters are put back, one after the other.
--
-- KEYS    as in record.lua
-- ARGV    3 time between two of them, ms  then ids
-- RETURN  {the last one's turn (ms), id that is to be put back, ...}; other ids are no dead letters
-- TWICE   Those that have a turn keep it.

local apart_ms = tonumber(ARGV[3])
local now_ms = server_ms()
local last = redis.call('ZRANGE', REDRIVES, -1, -1, 'WITHSCORES')[2]
local turn = math.max(now_ms, last and tonumber(last) + apart_ms or 0)

local function is_dead(id)
  if string.sub(id, 1, 1) == '~' then return redis.call('EXISTS', letter_key(id)) == 1 end
  return redis.call('HGET', job_key(id), 'state') == 'failed'
end

local answer = {'0'}
for i = 4, #ARGV do
  local id = ARGV[i]
  if is_dead(id) then
    if redis.call('ZADD', REDRIVES, 'NX', string.format('%.3f', turn), id) == 1 then turn = turn + apart_ms end
    answer[#answer + 1] = id
    answer[1] = string.format('%.0f', math.max(tonumber(answer[1]), tonumber(redis.call('ZSCORE', REDRIVES, id))))
  end
end
return answer
