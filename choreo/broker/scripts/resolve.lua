-- uses: saga, orders
--
-- Count a saga that could not be undone as put right by hand. Nothing more is undone, and none of its
-- letters waits any longer.
--
-- Returns {answer, detail}: resolved (and how many letters that settled); closed (and the saga's state: it
-- has neither failed nor does it unwind); unknown; blocked (and a key).

local obstacle = unreadable()
if obstacle then return { 'blocked', obstacle } end
local saga = open_saga(KEYS[1], KEYS[2], subject, '')
if saga.changed then return { 'unknown', '' } end
local before = answered()
if before then return { 'resolved', before } end
if saga.state ~= 'failed' and saga.state ~= 'compensating' then return { 'closed', saga.state } end

-- The letters that are open, and the facts that told of them.
local open, facts = {}, {}
local record = redis.call('HGETALL', KEYS[1])
for column = 1, #record, 2 do
  local id = string.match(record[column], '^l:(.*)$')
  if id and redis.call('HGET', keys.letters, id) == 'open' then
    local letter = letter_at(record[column + 1])
    open[#open + 1] = id
    facts[#facts + 1] = letter and letter.fact
  end
end

-- What is parked goes with the ledger. A step of the way back that is about to run again counts as done.
local timers = {}
for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
  local kind, entry = string.match(field, '^([ae]):(.*)$')
  if kind == 'a' then
    timers[#timers + 1] = timer_id(saga, entry)
  elseif kind == 'e' and row_of(saga, entry).status == 'B' then
    local participant, _, event = string.match(entry, ENTRY)
    put(saga, 'fields', 'd:' .. participant .. ':' .. event, 'x' .. token)
  end
end

turn(saga, 'resolved')
count(saga, -saga.open)
tell(saga, 'resolve', { settles = table.concat(facts, ' ') })
obstacle = blocked(saga, keys)
if obstacle then return { 'blocked', obstacle } end
put(saga, 'fields', MARK, tostring(#open))
apply(saga, keys, now)
redis.call('DEL', KEYS[2])
for _, timer in ipairs(timers) do
  redis.call('ZREM', keys.timers, timer)
  redis.call('HDEL', keys.parked, timer, 's:' .. timer)
end
for _, id in ipairs(open) do close_letter(id, 'resolved') end
return { 'resolved', tostring(#open) }
