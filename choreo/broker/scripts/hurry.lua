-- uses: saga, orders
--
-- Try again at once what of a saga waits for its next attempt.
--
-- Returns {answer, detail}: hurried (and how many attempts are due now); unknown; blocked (and a key).

local obstacle = unreadable() or (misfit(keys.timers, 'zset') and keys.timers)
if obstacle then return { 'blocked', obstacle } end
local saga = open_saga(KEYS[1], KEYS[2], subject, '')
if saga.changed then return { 'unknown', '' } end
local before = answered()
if before then return { 'hurried', before } end
for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
  local turn_of = string.match(field, '^a:(.*)$')
  local due = turn_of and redis.call('ZSCORE', keys.timers, timer_id(saga, turn_of))
  if due and tonumber(due) > tonumber(now) then add(saga, 'hurry', turn_of) end
end
local count = tostring(#(saga.hurry or NONE))
if count == '0' then return { 'hurried', count } end
tell(saga, 'retry', {})
obstacle = blocked(saga, keys)
if obstacle then return { 'blocked', obstacle } end
put(saga, 'fields', MARK, count)
apply(saga, keys, now)
return { 'hurried', count }
