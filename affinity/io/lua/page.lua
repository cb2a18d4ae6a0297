-- A page of jobs from one index, newest first; of equal instants the greater id first.
--
-- KEYS    1 index (zset)
-- ARGV    1 prefix of all keys  2 limit  3 bytes after which a page ends early
--         4 state or ''  5 model or ''  (what the index is of)
--         6 created (ms) and 7 id of the last job of the page before, both '' for the first page
--         8 tenant or ''  (whose jobs the index is of)
-- RETURN  {more 0|1, record, record, ...}
-- TWICE   Reads; entries whose record has gone, or is now another job under the same id, are removed on the way.

local index, prefix, limit, budget = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local state, model, score, last, tenant = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local SLICE = 64

-- Order of bytes, as in a sorted set; Lua's own `<` follows the server's locale.
local function precedes(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

-- Rank of the first entry after the cursor. The cursor's own entry may be gone, so its place among the entries of the
-- same instant is searched for.
local function first_rank()
  if score == '' then return 0 end
  local low = redis.call('ZCOUNT', index, '(' .. score, '+inf')
  local high = low + redis.call('ZCOUNT', index, score, score)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if precedes(redis.call('ZREVRANGE', index, middle, middle)[1], last) then high = middle else low = middle + 1 end
  end
  return low
end

local function belongs(record)
  return record[1] and (state == '' or record[1] == state) and (model == '' or record[2] == model)
    and (tenant == '' or record[3] == tenant)
end

local answer, size, stale, rank = {0}, 0, {}, first_rank()
local full = false
repeat
  local ids = redis.call('ZREVRANGE', index, rank, rank + SLICE - 1)
  for _, id in ipairs(ids) do
    local key = prefix .. 'job:' .. id
    if not belongs(redis.call('HMGET', key, 'state', 'model', 'tenant')) then
      stale[#stale + 1] = id
    elseif #answer > limit or size > budget then
      answer[1] = 1
      full = true
      break
    else
      local record = redis.call('HGETALL', key)
      for _, text in ipairs(record) do size = size + #text end
      answer[#answer + 1] = record
    end
  end
  rank = rank + SLICE
until full or #ids == 0
for _, id in ipairs(stale) do redis.call('ZREM', index, id) end
return answer
