-- The jobs that run in one life of a worker.
--
-- KEYS    1 jobs that run on the worker (set)
-- ARGV    1 head of the records' keys  2 worker  3 epoch
-- RETURN  {id, token, id, token, ...}
-- TWICE   Nothing changes.

local answer = {}
for _, id in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local state, worker, epoch, token = unpack(redis.call('HMGET', ARGV[1] .. id, 'state', 'worker', 'epoch', 'token'))
  if state == 'running' and worker == ARGV[2] and epoch == ARGV[3] then
    answer[#answer + 1] = id
    answer[#answer + 1] = token
  end
end
return answer
