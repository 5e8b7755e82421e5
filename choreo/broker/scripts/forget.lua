-- uses: saga
--
-- Forget sagas of one partition that have ended: everything that is kept of each goes at once.
--
-- KEYS  1 the tracker's progress (hash), 2 states of dead letters, 3 timers, then for each saga: record,
--       work, view, trace, index
-- ARGV  1 version, then for each saga: id, the state that it ended in, how many letters, their ids, how many
--       planned events of the way back, each <participant>/<step>:<event id>
-- Returns the new version, then 1 for each saga that went and 0 for one that stays; or -1 when somebody
-- else has written since the caller learnt the version, or the views are being rebuilt.
--
-- A saga stays when its record says that it has not ended so, when one of its letters waits for an
-- operator, or when a key has the wrong type. It stays as well while an attempt or an event of it is still
-- to come: handled later, that would begin the saga anew.

local at = 1
local function take()
  at = at + 1
  return ARGV[at]
end

local function any_open(count)
  local open = false
  for _ = 1, count do
    local letter = take()
    open = open or redis.call('HGET', KEYS[2], letter) == 'open'
  end
  return open
end

local function any_open_in(record)
  for _, field in ipairs(redis.call('HKEYS', record)) do
    local letter = string.match(field, '^l:(.*)$')
    if letter and redis.call('HGET', KEYS[2], letter) == 'open' then return true end
  end
  return false
end

local function any_to_come(work)
  for _, field in ipairs(redis.call('HKEYS', work)) do
    if string.find(field, '^[at]:') then return true end
  end
  return false
end

local function any_planned(count, id)
  local planned = false
  for _ = 1, count do
    local timer = 'plan:' .. take() .. ' ' .. id
    planned = planned or redis.call('ZSCORE', KEYS[3], timer)
  end
  return planned
end

local function may_go(saga)
  local open = any_open(tonumber(take()))
  local planned = any_planned(tonumber(take()), saga.id)
  if open or planned or misfit(saga.record, 'hash') or misfit(saga.work, 'hash') or misfit(saga.index, 'zset') then
    return false
  end
  local state = redis.call('HGET', saga.record, 'state')
  if state and state ~= saga.ended then return false end
  return not any_open_in(saga.record) and not any_to_come(saga.work)
end

if misfit(KEYS[1], 'hash') or misfit(KEYS[2], 'hash') or misfit(KEYS[3], 'zset') then return { -1 } end
local known = redis.call('HMGET', KEYS[1], 'version', 'wiping')
if (known[1] or '0') ~= ARGV[1] or known[2] then return { -1 } end

local answer, going = { tonumber(ARGV[1]) }, {}
for first = 4, #KEYS, 5 do
  local saga = {
    record = KEYS[first], work = KEYS[first + 1], view = KEYS[first + 2], trace = KEYS[first + 3],
    index = KEYS[first + 4], id = take(), ended = take(),
  }
  local goes = may_go(saga)
  answer[#answer + 1] = goes and 1 or 0
  if goes then going[#going + 1] = saga end
end
if #going > 0 then answer[1] = redis.call('HINCRBY', KEYS[1], 'version', 1) end
for _, saga in ipairs(going) do
  redis.call('UNLINK', saga.record, saga.work, saga.view, saga.trace)
  redis.call('ZREM', saga.index, saga.id)
end
return answer
