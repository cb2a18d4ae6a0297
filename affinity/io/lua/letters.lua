-- Dead letters, newest first.
--
-- KEYS    as in record.lua
-- ARGV    3 code or ''  4 model or ''  5 limit  6 place of the last one of the page before, or ''
-- RETURN  {place, entry, {fields of the record without what is large}}, ... at most one more than the limit
-- TWICE   Reads; letters whose record has gone, or has not failed any more, are removed on the way.

local index, limit = dead_key(ARGV[3], ARGV[4]), tonumber(ARGV[5])
local upper = ARGV[6] == '' and '+inf' or '(' .. ARGV[6]
local JOB = {'state', 'created_at', 'finished_at', 'attempts', 'losses', 'deaths', 'worker', 'error', 'life', 'tenant'}
local LETTER = {'id', 'created_at', 'worker', 'error', 'size_bytes', 'excerpt'}

local function fields_of(id)
  local loose = string.sub(id, 1, 1) == '~'
  local names = loose and LETTER or JOB
  local values = redis.call('HMGET', loose and letter_key(id) or job_key(id), unpack(names))
  if not values[1] or (not loose and values[1] ~= 'failed') then return nil end
  local flat = {}
  for i, name in ipairs(names) do
    if values[i] then flat[#flat + 1] = name; flat[#flat + 1] = values[i] end
  end
  return flat
end

local answer, stale = {}, {}
repeat
  local found = redis.call('ZRANGE', index, upper, '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, limit + 1, 'WITHSCORES')
  for i = 1, #found, 2 do
    local entry = found[i]
    local flat = fields_of(string.match(entry, '^%S+ %S+ (%S+)$'))
    if not flat then
      stale[#stale + 1] = entry
    elseif #answer <= limit then
      answer[#answer + 1] = {found[i + 1], entry, flat}
    end
    upper = '(' .. found[i + 1]
  end
until #found == 0 or #answer > limit
for _, entry in ipairs(stale) do remove_dead(entry) end
return answer
