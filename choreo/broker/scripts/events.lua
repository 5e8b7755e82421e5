-- Events that a commit publishes, and what they do to their saga.

-- Whether the saga has now seen every end of an `all: [...]` list of this many.
local function all_seen(saga, event, wanted)
  local seen = redis.call('HGET', saga.record, 'all') or ''
  if saga.all then seen = saga.all end
  if not string.find(' ' .. seen .. ' ', ' ' .. event .. ' ', 1, true) then
    seen = seen == '' and event or seen .. ' ' .. event
    saga.all = seen
    put(saga, 'fields', 'all', seen)
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

-- Publish an event later: it is parked, unless its saga has ended or turned with this very commit.
local function plan(d, saga, event, back)
  local line = participant .. '/' .. d.step .. ':' .. event[2]
  journal(saga, now, 'planned', event[2], {
    type = event[3], cause = d.event, participant = participant, step = d.step, undo = d.undo, due = event[6],
  })
  if not back then
    if saga.state ~= 'running' then return end
    put(saga, 'sets', 't:' .. line, event[6])
  end
  add(saga, 'timers', { id = timer_id(saga, 'plan:' .. line), due = event[6], payload = event[5] })
end

-- Publish the events of a commit: those of now, then the planned ones.
local function emit(d, saga, source, ledger, back)
  local aborting, running = false, saga.state == 'running'
  for _, event in ipairs(d.immediate) do aborting = aborting or event[4] == 'a' end
  for _, event in ipairs(d.immediate) do
    local fields = { 'id', event[2], 'type', event[3], 'source', source, 'subject', saga.subject,
      'time', now, 'cause', d.cause or d.event, 'began', d.began }
    if not aborting or event[4] == 'a' then end_by(saga, event[3], event[4]) end
    append(fields, 'sagatype', saga.type)
    append(fields, 'ledger', ledger)
    append(fields, 'phase', (back or (running and event[4] == 'a')) and 'back')
    append(fields, 'traceparent', d.traceparent)
    append_outcome(saga, fields)
    append(fields, 'data', event[5])
    add(saga, 'events', { stream = KEYS[tonumber(event[1])], fields = fields })
  end
  for _, event in ipairs(d.planned) do plan(d, saga, event, back) end
end
