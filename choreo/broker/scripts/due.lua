-- uses: saga
--
-- Move what is due from the timers to the inboxes. Any process may run it: a timer moves once.
--
-- KEYS  1 timers, 2 what is parked
-- ARGV  1 now (ms), 2 prefix of inboxes, 3 how many at most
-- Returns how many were moved; when the next one is due (ms), '' if none is parked; and an inbox that
-- is in the way, '' if none is: its timers stay, and those of others are moved nevertheless.
--
-- The inbox follows from the timer's id, [undo:|plan:]<participant>/<step>:<event id> <saga>; it has the same tag.

local MAX_PASSED = 1000

local function move(id, inbox)
  local parked = redis.call('HMGET', KEYS[2], id, 's:' .. id)
  if parked[1] and parked[2] then
    redis.call('XADD', inbox, '*', 'id', 'retry', 'type', 'choreo.retry', 'subject', parked[2],
      'time', ARGV[1], 'data', parked[1])
  end
  redis.call('HDEL', KEYS[2], id, 's:' .. id)
  redis.call('ZREM', KEYS[1], id)
end

if misfit(KEYS[1], 'zset') then return { 0, '', KEYS[1] } end
if misfit(KEYS[2], 'hash') then return { 0, '', KEYS[2] } end
local most = tonumber(ARGV[3])
local moved, passed, obstacle = 0, 0, ''
while moved < most and passed < MAX_PASSED do
  local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', passed, most - moved)
  if #ids == 0 then break end
  for _, id in ipairs(ids) do
    local inbox = ARGV[2] .. (string.match((string.gsub(id, '^%a+:', '')), '^([^/]+)/') or '')
    if misfit(inbox, 'stream') then
      obstacle = inbox
      passed = passed + 1
    else
      move(id, inbox)
      moved = moved + 1
    end
  end
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return { moved, first[2] or '', obstacle }
