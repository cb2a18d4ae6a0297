-- Records a job as queued and unpublished, or says what is there under its id.
--
-- KEYS    as in record.lua
-- ARGV    3 nonce of this call  4 id  5 model  6 created, ms  7 created, s  8 ttl_s or ''  9 digest  10 spec, JSON
--         11 most queued jobs of the tenant  12 of the model  13 in all; '' where there is no bound  14 tenant or ''
-- RETURN  {'conflict'}                                    the id is taken by other content
--         {'made', published 0|1, record}                 this call made it (record empty: as given, queued)
--         {'found', published 0|1, record}                it was there
--         {'full', 'tenant'|'model'|'all', queued jobs}   a bound is reached, and nothing was recorded
-- TWICE   The nonce in the record tells a second run of the same call from another caller: it answers 'made' again.

local nonce, id, digest = ARGV[3], ARGV[4], ARGV[9]
-- The first bound that is reached, the caller's own first, and how many are queued under it.
local function reached(model, tenant)
  local function queued(bound, key)
    if bound == '' then return nil end
    local count = redis.call('ZCARD', key)
    return count >= tonumber(bound) and count or nil
  end
  local count = tenant ~= '' and queued(ARGV[11], tenant_key(tenant, 'queued', ''))
  if count then return 'tenant', count end
  count = queued(ARGV[12], index_key('queued', model))
  if count then return 'model', count end
  count = queued(ARGV[13], index_key('queued', ''))
  if count then return 'all', count end
end

local job = read(id)
if not job then
  local bound, count = reached(ARGV[5], ARGV[14])
  if bound then return {'full', bound, count} end
  make(id, ARGV[5], ARGV[6], ARGV[7], ARGV[8], digest, ARGV[10], nonce)
  redis.call('ZADD', OUTBOX, ARGV[6], id)
  return {'made', 0, {}}
end
if job.digest ~= digest then return {'conflict'} end
local published = redis.call('ZSCORE', OUTBOX, id) and 0 or 1
return {job.nonce == nonce and 'made' or 'found', published, whole(id)}
