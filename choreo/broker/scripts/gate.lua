-- The commit gate: everything that a worker decides about deliveries of one partition, in one batch.
--
-- KEYS  1 journal, 2 dead letters, 3 their states, 4 timers, 5 what is parked, then the records, works and streams of the batch
-- ARGV  1 now (ms), 2 participant, 3 consumer, 4 prefix of inboxes, 5 how many decisions; then each
--       decision: a head that all share, and a body by its kind (see the `read_` functions).
--
-- Returns one array per decision: its answer, then what the kind of decision returns.
--   run        begin: go ahead              committed  it is written, now or by an earlier try
--   doubt      begin: the saga unwinds, and this step may have run before
--   waiting    begin: a join keeps this event until the others are there
--   duplicate  another attempt has committed this already
--   stale      the delivery belongs to another consumer, or to nobody
--   late       the saga unwinds: events withheld (or the step not run), effects to be undone
--   closed     too late for the saga's state
--   blocked    a key in the way has the wrong type; nothing was changed

local now, participant, consumer = ARGV[1], ARGV[2], ARGV[3]
local keys = {
  journal = KEYS[1], dead = KEYS[2], letters = KEYS[3], timers = KEYS[4], parked = KEYS[5], inbox = ARGV[4],
}
local at = 5

local function take()
  at = at + 1
  return ARGV[at]
end

local function take_list(width)
  local list = {}
  for number = 1, tonumber(take()) do
    local item = {}
    for column = 1, width do item[column] = take() end
    list[number] = width == 1 and item[1] or item
  end
  return list
end

-- How each mark's first letter answers when the same commit is sent again.
local ANSWERS = { c = 'committed', l = 'late', x = 'closed', w = 'waiting' }

---- reading decisions ---------------------------------------------------------------------------

local function read_head()
  local record = tonumber(take())
  local d = {
    record = KEYS[record], work = KEYS[record + 1], stream = KEYS[tonumber(take())],
    entry = take(), deliveries = tonumber(take()), subject = take(), sagatype = take(), step = take(),
    event = take(), type = take(), token = take(), back = take() ~= '', began = take(),
    attempt = tonumber(take()),
  }
  d.mark = 'd:' .. participant .. ':' .. d.event
  d.line = participant .. '/' .. d.step .. ':' .. d.event
  d.turn = d.line
  return d
end

local function read_begin(d)
  d.parents, d.undoable, d.wants, d.part = take(), take() ~= '', take_list(1), take()
end

-- The events that a handler emitted: stream, id, type, what it ends, data.
local function read_events(d)
  d.traceparent, d.events = take(), take_list(5)
end

local function read_done(d)
  d.parents, d.keep, d.input, d.known, d.result = take(), take() ~= '', take(), take() ~= '', take()
  d.joined = take_list(1)
  read_events(d)
end

local function read_failure(d)
  d.kind, d.note, d.detail = take(), take(), take()
  d.parents, d.keep, d.input, d.joined = take(), take() ~= '', take(), take_list(1)
  d.letter = { id = take(), fields = take_list(1) }
end

-- What is to happen when an attempt failed and another is to follow.
local function read_retry(d)
  d.timer = { due = take(), payload = take() }
  d.note, d.detail = take(), take()
end

local function read_undo(d)
  d.undo = take()
  d.mark = 'u:' .. d.line
  d.turn = 'undo:' .. d.line
end

---- the delivery --------------------------------------------------------------------------------

local function acknowledge(d)
  redis.pcall('XACK', d.stream, participant, d.entry)
end

-- Whether the delivery is still this consumer's, and the same one.
local function ours(d)
  local pending = redis.pcall('XPENDING', d.stream, participant, d.entry, d.entry, 1)
  if pending.err then return false end -- the group or the stream is gone
  local row = pending[1]
  return row ~= nil and row[2] == consumer and row[4] == d.deliveries
end

-- The answer if the delivery has been decided already, else nil.
local function decided(d)
  if misfit(d.record, 'hash') then return { 'blocked', d.record } end
  local mark = redis.call('HGET', d.record, d.mark)
  if not mark then return nil end
  acknowledge(d)
  if string.sub(mark, 2) == d.token then return { ANSWERS[string.sub(mark, 1, 1)] } end
  return { 'duplicate' }
end

-- The answer if this attempt has failed before and the next one is parked or under way, else nil. It was
-- delivered again: its group was set back, or its producer sent it twice.
local function outrun(d)
  local noted = redis.call('HGET', d.work, 'a:' .. d.turn)
  if not noted then return nil end
  local attempt, token = string.match(noted, '^(%d+) (.*)$')
  if tonumber(attempt) < d.attempt then return nil end
  acknowledge(d)
  return { token == d.token and 'committed' or 'duplicate' }
end

local function finish(d, saga, letter, answer)
  if d.attempt > 1 then saga.drops[#saga.drops + 1] = 'a:' .. d.turn end
  local obstacle = blocked(saga, keys)
  if obstacle then return { 'blocked', obstacle } end
  saga.fields[#saga.fields + 1] = d.mark
  saga.fields[#saga.fields + 1] = letter .. d.token
  apply(saga, keys, now)
  acknowledge(d)
  return { answer or ANSWERS[letter], saga.state }
end

local function fact(d, saga, kind, about)
  about.type, about.cause, about.participant, about.step = d.type, d.event, participant, d.step
  about.began = d.began
  journal(saga, now, kind, about.attempt and d.turn .. '#' .. about.attempt or d.line, about)
end

local function unwinds(saga)
  return saga.state ~= 'running' and saga.state ~= 'completed'
end

---- events --------------------------------------------------------------------------------------

-- Whether the saga has now seen every end of an `all: [...]` list of this many.
local function all_seen(saga, event, wanted)
  local seen = redis.call('HGET', saga.record, 'all') or ''
  if saga.all then seen = saga.all end
  if not string.find(' ' .. seen .. ' ', ' ' .. event .. ' ', 1, true) then
    seen = seen == '' and event or seen .. ' ' .. event
    saga.all = seen
    append(saga.fields, 'all', seen)
  end
  local _, count = string.gsub(seen, '%S+', '')
  return count >= wanted
end

-- What an event does to a running saga. ends: '' nothing, 'a' aborts, 'c1' completes, 'cN' one of N.
local function end_by(saga, event, ends)
  if saga.state ~= 'running' or ends == '' then return end
  if ends == 'a' then
    unwind(saga)
  elseif all_seen(saga, event, tonumber(string.sub(ends, 2))) then
    turn(saga, 'completed')
  end
end

local function emit(d, saga, source, ledger, back)
  local aborting, running = false, saga.state == 'running'
  for _, event in ipairs(d.events) do aborting = aborting or event[4] == 'a' end
  for _, event in ipairs(d.events) do
    local fields = { 'id', event[2], 'type', event[3], 'source', source, 'subject', saga.subject,
      'time', now, 'cause', d.event, 'began', d.began }
    if not aborting or event[4] == 'a' then end_by(saga, event[3], event[4]) end
    append(fields, 'sagatype', saga.type)
    append(fields, 'ledger', ledger)
    append(fields, 'phase', (back or (running and event[4] == 'a')) and 'back')
    append(fields, 'traceparent', d.traceparent)
    append_outcome(saga, fields)
    append(fields, 'data', event[5])
    saga.events[#saga.events + 1] = { stream = KEYS[tonumber(event[1])], fields = fields }
  end
end

---- joins ---------------------------------------------------------------------------------------

local function part_field(prefix, d, wanted)
  return prefix .. participant .. '/' .. d.step .. ':' .. wanted
end

-- The parts of a join that fired for this event, in the order of its types, or nil.
local function fired(d, saga)
  local parts = {}
  for number, wanted in ipairs(d.wants) do
    local part = redis.call('HGET', saga.work, 'x:' .. d.line .. ':' .. wanted)
    if not part then return nil end
    parts[number] = part
  end
  return parts
end

-- The parts of a join when this event completes it, and their ledgers; or nil and what is missing.
local function complete(d, saga)
  local parts, ledgers, missing = {}, {}, {}
  for number, wanted in ipairs(d.wants) do
    if wanted == d.type then
      parts[number], ledgers[number] = d.part, d.parents
    else
      parts[number] = redis.call('HGET', saga.work, part_field('j:', d, wanted))
      ledgers[number] = redis.call('HGET', saga.work, part_field('k:', d, wanted)) or ''
      if not parts[number] then missing[#missing + 1] = wanted end
    end
  end
  if #missing > 0 then return nil, missing end
  return parts, ledgers
end

local function clear_join(d, saga)
  for _, wanted in ipairs(d.joined) do
    saga.drops[#saga.drops + 1] = 'x:' .. d.line .. ':' .. wanted
  end
end

-- Keep the event for the join, or fire it. Returns an answer if the delivery is settled by that.
local function gather(d, saga)
  local parts = fired(d, saga)
  if parts then
    d.parts = parts
    return nil
  end
  local ledgers
  parts, ledgers = complete(d, saga)
  if not parts then
    saga.blobs = { part_field('j:', d, d.type), d.part, part_field('k:', d, d.type), d.parents }
    fact(d, saga, 'waiting', { note = table.concat(ledgers, ' ') })
    return finish(d, saga, 'w')
  end
  for number, wanted in ipairs(d.wants) do
    saga.blobs[#saga.blobs + 1] = 'x:' .. d.line .. ':' .. wanted
    saga.blobs[#saga.blobs + 1] = parts[number]
    saga.drops[#saga.drops + 1] = part_field('j:', d, wanted)
    saga.drops[#saga.drops + 1] = part_field('k:', d, wanted)
  end
  d.parts, d.parents, d.fires = parts, table.concat(merge(ledgers), ' '), true
  return nil
end

---- decisions -----------------------------------------------------------------------------------

local decide = {}

local function park(d, saga, about)
  saga.blobs[#saga.blobs + 1] = 'a:' .. d.turn
  saga.blobs[#saga.blobs + 1] = d.attempt .. ' ' .. d.token
  saga.timer = { id = timer_id(saga, d.turn), due = d.timer.due, payload = d.timer.payload }
  about.note, about.detail, about.attempt, about.due = d.note, d.detail, d.attempt, d.timer.due
  fact(d, saga, 'retrying', about)
  local obstacle = blocked(saga, keys)
  if obstacle then return { 'blocked', obstacle } end
  apply(saga, keys, now)
  acknowledge(d)
  return { 'committed', saga.state }
end

function decide.begin(d)
  read_begin(d)
  local answer = decided(d)
  if answer then return answer end
  if misfit(d.work, 'hash') then return { 'blocked', d.work } end
  answer = outrun(d)
  if answer then return answer end
  local saga = open_saga(d.record, d.work, d.subject, d.sagatype)
  -- A step that has lost its undo since it began must not leave its row open for ever.
  local row = (d.undoable or unwinds(saga)) and row_of(saga, d.line)
  if unwinds(saga) and not d.back then
    if row then
      local parts = #d.wants > 0 and fired(d, saga) or {}
      return { 'doubt', saga.type, unpack(parts) }
    end
    if not ours(d) then return { 'stale' } end
    d.joined = d.wants
    clear_join(d, saga)
    fact(d, saga, 'skipped', {})
    return finish(d, saga, 'l')
  end
  if #d.wants > 0 then
    if not ours(d) then return { 'stale' } end
    answer = gather(d, saga)
    if answer then return answer end
  end
  local enters = d.undoable and not row and saga.state == 'running'
  if enters then enter(saga, d.line, 'S', d.parents) end
  if enters or d.fires then
    local obstacle = blocked(saga, keys)
    if obstacle then return { 'blocked', obstacle } end
    apply(saga, keys, now)
  end
  return { 'run', saga.type, unpack(d.parts or {}) }
end

-- Note in the ledger that a step took effect, or may have.
local function note_effect(d, saga)
  if not row_of(saga, d.line) then enter(saga, d.line, 'S', d.parents) end
  local row = row_of(saga, d.line)
  row.status = 'D'
  put_row(saga, d.line, row)
  saga.blobs[#saga.blobs + 1] = 'i:' .. d.line
  saga.blobs[#saga.blobs + 1] = d.input
  if d.known then
    saga.blobs[#saga.blobs + 1] = 'r:' .. d.line
    saga.blobs[#saga.blobs + 1] = d.result
  end
  if saga.state ~= 'running' then ask(saga, d.line, row) end
end

local function drop_started(d, saga)
  local row = row_of(saga, d.line)
  if row then settle(saga, d.line, row, false) end
end

function decide.done(d)
  read_done(d)
  local answer = decided(d)
  if answer then return answer end
  if not ours(d) then return { 'stale' } end
  if misfit(d.work, 'hash') then return { 'blocked', d.work } end
  local saga = open_saga(d.record, d.work, d.subject, d.sagatype)
  clear_join(d, saga)
  local late = unwinds(saga) and not d.back
  local ledger = d.parents
  if saga.state ~= 'completed' and not d.back then
    if d.keep then
      note_effect(d, saga)
      ledger = d.line
    else
      drop_started(d, saga)
    end
  end
  if late then
    local withheld = {}
    for number, event in ipairs(d.events) do withheld[number] = event[3] end
    close_if_unwound(saga)
    fact(d, saga, 'late', { note = table.concat(withheld, ' ') })
    return finish(d, saga, 'l')
  end
  if #d.events == 0 then fact(d, saga, 'done', {}) end
  emit(d, saga, participant .. '/' .. d.step, ledger, d.back)
  return finish(d, saga, 'c')
end

-- A step that will not be tried again: it aborted (nothing to undo) or failed (it may have taken effect).
-- Part of the way back has failed for good: the saga cannot count as compensated.
local function spoil(saga)
  if saga.state == 'compensated' then
    turn(saga, 'failed')
  elseif saga.state == 'compensating' then
    counts(saga).f = counts(saga).f + 1
  end
end

function decide.failed(d)
  read_failure(d)
  local answer = decided(d)
  if answer then return answer end
  if not ours(d) then return { 'stale' } end
  if misfit(d.work, 'hash') then return { 'blocked', d.work } end
  local saga = open_saga(d.record, d.work, d.subject, d.sagatype)
  clear_join(d, saga)
  local running = saga.state == 'running'
  if d.kind == 'dead' or not (running or unwinds(saga) and not d.back) then saga.letter = d.letter end
  if saga.state ~= 'completed' and not d.back then
    local began = d.kind == 'dead' and row_of(saga, d.line)
    if d.keep or began then note_effect(d, saga) else drop_started(d, saga) end
  end
  if running then unwind(saga) else close_if_unwound(saga) end
  if d.back and saga.letter then spoil(saga) end
  fact(d, saga, saga.letter and 'dead' or d.kind, { note = d.note, detail = d.detail })
  return finish(d, saga, running and 'c' or (unwinds(saga) and 'l' or 'x'))
end

-- An attempt of a step failed, and another is to follow: acknowledge this delivery and park the next.
function decide.retry(d)
  read_retry(d)
  d.parents, d.keep, d.input, d.joined = take(), take() ~= '', take(), take_list(1)
  local answer = decided(d)
  if answer then return answer end
  if misfit(d.work, 'hash') then return { 'blocked', d.work } end
  answer = outrun(d)
  if answer then return answer end
  if not ours(d) then return { 'stale' } end
  local saga = open_saga(d.record, d.work, d.subject, d.sagatype)
  if unwinds(saga) and not d.back then
    -- No further attempt; but nobody knows whether this one took effect.
    clear_join(d, saga)
    if d.keep then note_effect(d, saga) end
    fact(d, saga, 'late', { detail = d.note, attempt = d.attempt })
    return finish(d, saga, 'l')
  end
  return park(d, saga, {})
end

function decide.retry_undo(d)
  read_undo(d)
  read_retry(d)
  local answer = decided(d)
  if answer then return answer end
  if misfit(d.work, 'hash') then return { 'blocked', d.work } end
  answer = outrun(d)
  if answer then return answer end
  local saga = open_saga(d.record, d.work, d.subject, d.sagatype)
  local row = row_of(saga, d.line)
  if not row or row.status ~= 'U' then
    acknowledge(d)
    return { 'closed', saga.state }
  end
  if not ours(d) then return { 'stale' } end
  return park(d, saga, { undo = d.undo })
end

function decide.begin_undo(d)
  read_undo(d)
  local answer = decided(d)
  if answer then return answer end
  if misfit(d.work, 'hash') then return { 'blocked', d.work } end
  answer = outrun(d)
  if answer then return answer end
  local saga = open_saga(d.record, d.work, d.subject, d.sagatype)
  local row = row_of(saga, d.line)
  if not row or row.status ~= 'U' then
    acknowledge(d)
    return { 'closed' }
  end
  local packed = redis.call('HMGET', d.work, 'i:' .. d.line, 'r:' .. d.line)
  return { 'run', saga.type, packed[1] or '', packed[2] or '' }
end

-- An undo has ended: it succeeded (emits events), or failed for good (becomes a letter).
local function end_undo(d, failed)
  local answer = decided(d)
  if answer then return answer end
  if misfit(d.work, 'hash') then return { 'blocked', d.work } end
  local saga = open_saga(d.record, d.work, d.subject, d.sagatype)
  local row = row_of(saga, d.line)
  if not row or row.status ~= 'U' then
    acknowledge(d)
    return { 'closed', saga.state }
  end
  if not ours(d) then return { 'stale' } end
  settle(saga, d.line, row, failed)
  close_if_unwound(saga)
  if failed then saga.letter = d.letter end
  fact(d, saga, failed and 'stuck' or 'undone', { undo = d.undo, note = d.note, detail = d.detail })
  if not failed then
    emit(d, saga, participant .. '/' .. d.step .. '/' .. d.undo, '', true)
  end
  return finish(d, saga, 'c')
end

function decide.undone(d)
  read_undo(d)
  read_events(d)
  return end_undo(d, false)
end

function decide.stuck(d)
  read_undo(d)
  d.kind, d.note, d.detail = take(), take(), take()
  d.letter = { id = take(), fields = take_list(1) }
  return end_undo(d, true)
end

local answers = {}
for number = 1, tonumber(ARGV[5]) do
  local kind = take()
  answers[number] = decide[kind](read_head())
end
return answers
