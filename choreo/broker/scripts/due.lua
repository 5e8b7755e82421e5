-- Move what is due from the timers to the inboxes. Any process may run it: a timer moves once.
--
-- KEYS  1 timers, 2 what is parked
-- ARGV  1 now (ms), 2 prefix of inboxes, 3 how many at most
-- Returns how many were moved, and when the next one is due (ms), or '' if none is parked.
--
-- The inbox follows from the timer's id, [undo:]<participant>/<step>:<event id>; it has the same tag.

local moved = 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])) do
  local parked = redis.call('HMGET', KEYS[2], id, 's:' .. id)
  local participant = string.match((string.gsub(id, '^undo:', '')), '^([^/]+)/')
  if parked[1] and parked[2] and participant then
    redis.call('XADD', ARGV[2] .. participant, '*', 'id', 'retry', 'type', 'choreo.retry', 'subject', parked[2],
      'time', ARGV[1], 'data', parked[1])
    moved = moved + 1
  end
  redis.call('HDEL', KEYS[2], id, 's:' .. id)
  redis.call('ZREM', KEYS[1], id)
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return { moved, first[2] or '' }
