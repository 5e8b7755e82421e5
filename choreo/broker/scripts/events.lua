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
  elseif ends == 'c1' or all_seen(saga, event, tonumber(string.sub(ends, 2))) then
    turn(saga, 'completed')
  end
end

-- Publish an event later: it is parked, unless its saga has ended or turned with this very commit.
local function plan(d, saga, event, back)
  local line = d.route.line .. event.id
  journal(saga, now, 'planned', event.id, {
    type = event.outlet.type, cause = d.event, participant = participant, step = d.route.step, undo = d.undo,
    due = event.due,
  })
  if not back then
    if saga.state ~= 'running' then return end
    put(saga, 'sets', 't:' .. line, event.due)
  end
  add(saga, 'timers', { id = timer_id(saga, 'plan:' .. line), due = event.due, payload = event.data })
end

-- Publish the events of a commit: those of now, then the planned ones. What leads forward although this very
-- commit makes the saga unwind says so: nobody shall take it for a sign that the saga runs.
local function emit(d, saga, source, ledger, back)
  local running, events = saga.state == 'running', d.immediate and {}
  for number, event in ipairs(d.immediate or NONE) do
    local outlet = event.outlet
    local aborts = outlet.ends == 'a'
    if aborts or not d.aborts then end_by(saga, outlet.type, outlet.ends) end
    local entry = {
      outlet.stream, '*', 'id', event.id, 'type', outlet.type, 'source', source, 'subject', saga.subject, 'time', now,
      'cause', d.cause or d.event, 'began', d.began, 'sagatype', saga.type, 'data', event.data,
    }
    append(entry, 'ledger', ledger)
    append(entry, 'phase', (back or running and aborts) and 'back')
    append(entry, 'unwinds', running and d.aborts and not aborts and not back and '1')
    append(entry, 'traceparent', d.traceparent)
    append_outcome(saga, entry)
    events[number] = entry
  end
  saga.events = events
  if not d.planned then return end
  for _, event in ipairs(d.planned) do plan(d, saga, event, back) end
end
