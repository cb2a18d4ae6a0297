-- Records a job as queued and unpublished, or says what is there under its id.
--
-- KEYS    as in record.lua
-- ARGV    3 nonce of this call  4 id  5 model  6 created, ms  7 created, s  8 ttl_s or ''  9 digest  10 spec, JSON
-- RETURN  {'conflict'}                                    the id is taken by other content
--         {'made', published 0|1, record}                 this call made it (record empty: as given, queued)
--         {'found', published 0|1, record}                it was there
-- TWICE   The nonce in the record tells a second run of the same call from another caller: it answers 'made' again.

local nonce, id, digest = ARGV[3], ARGV[4], ARGV[9]
local job = read(id)
if not job then
  make(id, ARGV[5], ARGV[6], ARGV[7], ARGV[8], digest, ARGV[10], nonce)
  redis.call('ZADD', OUTBOX, ARGV[6], id)
  return {'made', 0, {}}
end
if job.digest ~= digest then return {'conflict'} end
local published = redis.call('ZSCORE', OUTBOX, id) and 0 or 1
return {job.nonce == nonce and 'made' or 'found', published, whole(id)}
