-- What the scripts about orders and pins share; put in front of each.
--
-- An order waits until it has ended, once and for good, by `end_order` and nowhere else. Only those that wait are listed:
-- one at most for each model and worker.

local EVENTS_KEPT = 10000

local function emit(stream, kind, at, ...)
  redis.call('XADD', stream, 'MAXLEN', '~', EVENTS_KEPT, '*', 'kind', kind, 'at', at, ...)
end

local function server_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Whether it has ended so: now, or before.
local function end_order(listed, record, stream, state, reason, at, kept_ms)
  local id, is, was, action, model, worker =
    unpack(redis.call('HMGET', record, 'id', 'state', 'reason', 'action', 'model', 'worker'))
  if is ~= 'waiting' then return is == state and was == reason end
  local place = model .. '|' .. worker
  if redis.call('HGET', listed, place) == id then redis.call('HDEL', listed, place) end
  redis.call('HSET', record, 'state', state, 'reason', reason, 'ended_at', at)
  redis.call('PEXPIRE', record, kept_ms)
  emit(stream, 'order.ended', at, 'order', id, 'action', action, 'model', model, 'worker', worker,
    'state', state, 'reason', reason)
  return true
end
