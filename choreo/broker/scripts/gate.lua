-- uses: saga, delivery, events, joins
--
-- The commit gate: everything that a worker decides about deliveries of one partition, in one batch.
--
-- KEYS  1 journal, 2 dead letters, 3 their states, 4 timers, 5 what is parked, then the record and the work of each
--       decision's saga, then the streams of the batch
-- ARGV  1 now (ms), 2 participant, 3 consumer, 4 prefix of inboxes, then
--       how many routes, each: kind of decision, stream (its key's number), saga type, step, event type, whether
--       the event is of the way back;
--       how many outlets, each: stream, event type, what it ends ('' nothing, 'a' aborts, 'c1' completes, 'cN' one
--       of N; 'p' if it is planned);
--       how many decisions, each: its route, a head, and a body by its kind (see the `read_` functions)
--
-- Returns one answer per decision: a word, mostly with a space and the saga's state behind it (run: its type;
-- blocked: the key). With packed events it is an array: word, type, events. The words are
--   run        begin: go ahead              committed  it is written, now or by an earlier try
--   doubt      begin: the saga unwinds, and this step may have run before
--   busy       begin: another delivery of this event has begun; this one is left pending, and comes again later
--   waiting    begin: a join keeps this event until the others are there
--   poison     begin: it has begun often enough, and nothing ever came of it
--   duplicate  another attempt has committed this already
--   stale      the delivery belongs to another consumer, or to nobody
--   late       the saga unwinds: events withheld (or the step not run), effects to be undone
--   closed     too late for the saga's state
--   blocked    a key in the way has the wrong type; nothing was changed

---- reading decisions ---------------------------------------------------------------------------

local function read_begin(d)
  d.attempt, d.parents, d.undoable, d.wants, d.part = take(), take(), take() ~= '', take_list(take()), take()
  d.most = take()
end

-- What a step leaves in the ledger: its causes, and whether it has anything to undo.
local function read_effect(d)
  d.parents, d.keep, d.input, d.joined = take(), take() ~= '', take(), take_list(take())
end

-- The events that a handler emitted. One that is due later is not parked with what it does to its saga: that
-- is seen when it is published.
local function read_events(d, traceparent, count)
  d.traceparent = traceparent
  for _ = 1, tonumber(count) do
    local number, id, data = take_many(3)
    local outlet = outlets[number]
    if outlet.ends == 'p' then
      add(d, 'planned', { outlet = outlet, id = id, data = data, due = take() })
    else
      if outlet.ends == 'a' then d.aborts = true end
      add(d, 'immediate', { outlet = outlet, id = id, data = data })
    end
  end
end

local function read_letter(d)
  d.letter = { id = take(), fields = take_list(take()) or NONE }
end

-- What is to happen when an attempt failed and another is to follow.
local function read_timer(d)
  d.attempt, d.timer = take(), { due = take(), payload = take() }
  d.note, d.detail = take(), take()
end

local function read_done(d)
  d.parents, d.joined = take(), take_list(take())
  local kept = take_list(take()) -- the packed input, and the result if it is known
  if kept then d.keep, d.input, d.result = true, kept[1], kept[2] end
  read_events(d, take(), take())
end

-- In short: it has no causes in the ledger and leaves nothing there, joins nothing, and is not traced.
local function read_plain(d)
  d.parents = ''
  read_events(d, '', take())
end

local function read_failed(d)
  d.attempt, d.kind, d.note, d.detail = take(), take(), take(), take()
  read_effect(d)
  read_letter(d)
end

local function read_retry(d)
  read_timer(d)
  read_effect(d)
end

local function read_publish(d)
  d.source, d.cause, d.ledger = take(), take(), take()
  d.mark = 'p:' .. d.event
  read_events(d, take(), take())
end

local function read_undo(d)
  d.undo = take()
  d.mark = 'u:' .. d.line
end

local function read_begin_undo(d)
  read_undo(d)
  d.attempt, d.most = take(), take()
end

local function read_retry_undo(d)
  read_undo(d)
  read_timer(d)
end

local function read_undone(d)
  read_undo(d)
  read_events(d, take(), take())
end

local function read_stuck(d)
  read_undo(d)
  d.note, d.detail = take(), take()
  read_letter(d)
end

---- beginning -----------------------------------------------------------------------------------

-- The answer to who wants to begin, and with it what the handler needs.
local function let_begin(d, saga, needs)
  local verdict = count_run(d, saga)
  if verdict == 'stale' then return verdict end
  if saga.sets or saga.dirty then
    local obstacle = blocked(saga, keys)
    if obstacle then return 'blocked ' .. obstacle end
    apply(saga, keys, now)
  end
  return { verdict, saga.type, unpack(needs) }
end

---- steps ---------------------------------------------------------------------------------------

-- A step that is due when its saga unwinds is not run. It may have run before, though.
local function refrain(d, saga, row)
  if row then
    local parts = d.wants and fired(d, saga) or {}
    return { 'doubt', saga.type, unpack(parts) }
  end
  if not ours(d) then return 'stale' end
  d.joined = d.wants
  if d.joined then clear_join(d, saga) end
  fact(d, saga, 'skipped', NONE)
  return finish(d, saga, 'l')
end

local function begin(d, saga)
  -- A step that has lost its undo since it began must not leave its row open for ever.
  local row = (d.undoable or unwinds(saga)) and row_of(saga, d.line)
  if row and in_other_hands(d, row) then return 'busy' end
  if unwinds(saga) and not d.back then return refrain(d, saga, row) end
  if d.wants then
    if not ours(d) then return 'stale' end
    local answer = gather(d, saga)
    if answer then return answer end
  end
  local enters = d.undoable and not row and saga.state == 'running' and not d.back
  if enters then enter(saga, d.line, 'S' .. d.token, d.parents) end
  return let_begin(d, saga, d.parts or NONE)
end

-- Note in the ledger that a step took effect, or may have. Nothing is undone any more in a saga that an
-- operator has resolved.
local function note_effect(d, saga)
  if saga.state == 'resolved' then return end
  if not row_of(saga, d.line) then enter(saga, d.line, 'S', d.parents) end
  local row = row_of(saga, d.line)
  row.status = 'D'
  put_row(saga, d.line, row)
  put(saga, 'sets', 'i:' .. d.line, d.input)
  if d.result then put(saga, 'sets', 'r:' .. d.line, d.result) end
  if saga.state ~= 'running' then ask(saga, d.line, row) end
end

local function drop_started(d, saga)
  local row = row_of(saga, d.line)
  if row then settle(saga, d.line, row, false) end
end

-- A step of the way back that had failed, and was replayed, has succeeded: nobody waits for it any more.
local function settle_back(d, saga)
  local row = saga.state == 'compensating' and row_of(saga, d.line)
  if row and row.status == 'B' then
    settle(saga, d.line, row, false)
    close_if_unwound(saga)
  end
end

-- The types of the events that are not published.
local function withheld(d)
  local types = {}
  for _, event in ipairs(d.immediate or NONE) do types[#types + 1] = event.outlet.type end
  for _, event in ipairs(d.planned or NONE) do types[#types + 1] = event.outlet.type end
  return table.concat(types, ' ')
end

local function done(d, saga)
  if d.joined then clear_join(d, saga) end
  if d.back then settle_back(d, saga) end
  local ledger = d.parents
  if saga.state ~= 'completed' and not d.back then
    if d.keep then
      note_effect(d, saga)
      ledger = d.line
    else
      drop_started(d, saga)
    end
  end
  if unwinds(saga) and not d.back then
    close_if_unwound(saga)
    fact(d, saga, 'late', { note = withheld(d) })
    return finish(d, saga, 'l')
  end
  if not d.immediate then fact(d, saga, 'done', NONE) end
  emit(d, saga, d.route.source, ledger, d.back)
  return finish(d, saga, 'c')
end

-- Part of the way back has failed for good: the saga cannot count as compensated unless it is replayed.
local function spoil(d, saga)
  if saga.state ~= 'compensated' and saga.state ~= 'compensating' and saga.state ~= 'failed' then return end
  local row = row_of(saga, d.line)
  if row and row.status == 'B' then
    settle(saga, d.line, row, true)
  else
    if not row then put_row(saga, d.line, { status = 'F', children = 0, parents = '' }) end
    count_failures(saga, 1)
  end
  if saga.state == 'compensated' then turn(saga, 'failed') end
end

-- Acknowledge a delivery without a done mark: its step is to run again, by a timer or by an operator.
local function hold(d, saga, kind, about)
  put(saga, 'sets', 'a:' .. turn_of(d), d.attempt .. ' ' .. d.token)
  forget_runs(d, saga)
  about.note, about.detail, about.attempt = d.note, d.detail, d.attempt
  fact(d, saga, kind, about)
  local obstacle = blocked(saga, keys)
  if obstacle then return 'blocked ' .. obstacle end
  apply(saga, keys, now)
  acknowledge(d)
  return 'committed ' .. saga.state
end

-- A step failed for good, and its saga is to wait for an operator. Should the saga unwind instead, the
-- step counts as one that may have taken effect.
local function suspend(d, saga)
  saga.letter = d.letter
  if d.keep or row_of(saga, d.line) then note_effect(d, saga) end
  return hold(d, saga, 'parked', {})
end

-- A step that will not be tried again: it failed (it may have taken effect) or aborted (it has not; but an earlier
-- attempt may have, or another delivery that has begun).
local function failed(d, saga)
  if d.kind == 'parked' then
    if saga.state == 'running' and not d.back then return suspend(d, saga) end
    d.kind = 'dead'
  end
  if d.joined then clear_join(d, saga) end
  local running = saga.state == 'running'
  if d.kind == 'dead' or not (running or unwinds(saga) and not d.back) then saga.letter = d.letter end
  if saga.state ~= 'completed' and not d.back then
    local began = (d.kind == 'dead' or d.noted or d.runs) and row_of(saga, d.line)
    if d.keep or began then note_effect(d, saga) else drop_started(d, saga) end
  end
  if d.back and saga.letter then spoil(d, saga) end
  if running then unwind(saga) else close_if_unwound(saga) end
  fact(d, saga, saga.letter and 'dead' or d.kind, { note = d.note, detail = d.detail })
  return finish(d, saga, running and 'c' or (unwinds(saga) and 'l' or 'x'))
end

-- An attempt failed: park the next one.
local function park(d, saga)
  add(saga, 'timers', { id = timer_id(saga, turn_of(d)), due = d.timer.due, payload = d.timer.payload })
  return hold(d, saga, 'retrying', { due = d.timer.due })
end

local function retry(d, saga)
  if unwinds(saga) and not d.back then
    -- No further attempt; but nobody knows whether this one took effect.
    if d.joined then clear_join(d, saga) end
    if d.keep or row_of(saga, d.line) then note_effect(d, saga) end
    fact(d, saga, 'late', { detail = d.note, attempt = d.attempt })
    return finish(d, saga, 'l')
  end
  return park(d, saga)
end

-- A planned event is due. If its saga has ended or unwinds, it is void.
local function publish(d, saga)
  add(saga, 'drops', 't:' .. d.line)
  if saga.state ~= 'running' and not d.back then return finish(d, saga, 'x') end
  emit(d, saga, d.source, d.ledger, d.back)
  return finish(d, saga, 'c')
end

---- undos ---------------------------------------------------------------------------------------

local function begin_undo(d, saga)
  return let_begin(d, saga, d.texts)
end

local function undone(d, saga)
  settle(saga, d.line, d.row, false)
  close_if_unwound(saga)
  fact(d, saga, 'undone', NONE)
  emit(d, saga, d.route.source .. '/' .. d.undo, '', true)
  return finish(d, saga, 'c')
end

local function stuck(d, saga)
  settle(saga, d.line, d.row, true)
  close_if_unwound(saga)
  saga.letter = d.letter
  fact(d, saga, 'stuck', { note = d.note, detail = d.detail })
  return finish(d, saga, 'c')
end

---- every decision ------------------------------------------------------------------------------

-- How each is read and made. again: not if a later attempt of the same is on its way. fenced: only by
-- the consumer that holds the delivery. undo: only while the undo is asked for. texts: it wants to know with
-- what the step ran, and what it returned.
local decisions = {
  begin = { read = read_begin, decide = begin, again = true },
  done = { read = read_done, decide = done, fenced = true },
  plain = { read = read_plain, decide = done, fenced = true },
  failed = { read = read_failed, decide = failed, fenced = true },
  retry = { read = read_retry, decide = retry, again = true, fenced = true },
  publish = { read = read_publish, decide = publish, fenced = true },
  begin_undo = { read = read_begin_undo, decide = begin_undo, again = true, undo = true, texts = true },
  undone = { read = read_undone, decide = undone, fenced = true, undo = true },
  stuck = { read = read_stuck, decide = stuck, fenced = true, undo = true },
  retry_undo = { read = read_retry_undo, decide = park, again = true, fenced = true, undo = true },
}

-- What to answer when a hash could not be read; if that is not for its type, the caller learns whatever it is.
local function unreadable(key)
  return misfit(key, 'hash') and 'blocked ' .. key or redis.call('HMGET', key, 'state')
end

-- What there is about a delivery in its saga's work.
local function read_work(d, work, texts)
  local turn, line = turn_of(d), d.line
  if texts then return redis.pcall('HMGET', work, 'a:' .. turn, 'e:' .. line, 'b:' .. turn, 'i:' .. line, 'r:' .. line) end
  return redis.pcall('HMGET', work, 'a:' .. turn, 'e:' .. line, 'b:' .. turn)
end

local function answer(route, record, work)
  local decision, d, subject = decisions[route.kind], read_head(route)
  decision.read(d)
  local known = redis.pcall('HMGET', record, 'state', 'seq', 'type', 'open', d.mark)
  if known.err then return unreadable(record) end
  local settled = known[5] and decided(d, known[5])
  if settled then return settled end
  local saga = open_saga(record, work, subject, route.sagatype, known)
  saga.sound = true
  if not saga.blank then
    local noted = read_work(d, work, decision.texts)
    if noted.err then return unreadable(work) end
    settled = noted[1] and decision.again and outrun(d, noted[1])
    if settled then return settled end
    d.noted, d.runs, saga.rows = noted[1], noted[3], { [d.line] = noted[2] and parse_row(noted[2]) }
    if decision.texts then d.texts = { noted[4] or '', noted[5] or '' } end
  end
  if decision.undo then
    d.row = row_of(saga, d.line)
    if not d.row or d.row.status ~= 'U' then
      acknowledge(d)
      return 'closed ' .. saga.state
    end
  end
  if decision.fenced and not ours(d) then return 'stale' end
  return decision.decide(d, saga)
end

local answers = {}
for number = 1, many do
  local route, record, work = routes[take()], KEYS[4 + 2 * number], KEYS[5 + 2 * number]
  answers[number] = answer(route, record, work)
end
acknowledge_all()
return answers
