-- A delivery that is being decided about: what the caller says of it, and whether it may decide.
--
-- For the gate, which says what KEYS and ARGV hold.

local now, participant, consumer = ARGV[1], ARGV[2], ARGV[3]
local keys = {
  journal = KEYS[1], dead = KEYS[2], letters = KEYS[3], timers = KEYS[4], parked = KEYS[5], inbox = ARGV[4],
}
local at = 4

local function take()
  at = at + 1
  return ARGV[at]
end

local function take_many(count)
  at = at + count
  return unpack(ARGV, at - count + 1, at)
end

-- So many as a list; nothing if there are none.
local function take_list(count)
  if count ~= '0' then return { take_many(tonumber(count)) } end
end

-- What many decisions of a batch have in common: their kind, and where the delivery comes from and goes to.
local routes = {}
for number = 1, tonumber(take()) do
  local kind, stream, sagatype, step, type, back = take_many(6)
  local source = participant .. '/' .. step
  routes[tostring(number)] = {
    kind = kind, stream = KEYS[tonumber(stream)], sagatype = sagatype, step = step, type = type, back = back ~= '',
    source = source, line = source .. ':',
  }
end

-- Where many of the emitted events go, and what they do to their saga.
local outlets = {}
for number = 1, tonumber(take()) do
  local stream, type, ends = take_many(3)
  outlets[tostring(number)] = { stream = KEYS[tonumber(stream)], type = type, ends = ends }
end

local DONE = 'd:' .. participant .. ':'

-- How each mark's first letter answers when the same commit is sent again.
local ANSWERS = { c = 'committed', l = 'late', x = 'closed', w = 'waiting' }

-- How many decisions there are.
local many = tonumber(take())

local function read_head(route)
  local entry, deliveries, subject, event, token, began = take_many(6)
  return {
    route = route, back = route.back, entry = entry, deliveries = deliveries, event = event, token = token,
    began = began, mark = DONE .. event, line = route.line .. event,
  }, subject
end

-- What attempts are told apart by: a step's, and those of its undo.
local function turn_of(d)
  return d.undo and 'undo:' .. d.line or d.line
end

---- what has become of it -----------------------------------------------------------------------

-- Stream -> entries to acknowledge, and entry -> how often it was delivered to this consumer, as far as
-- that has been looked up.
local acknowledged, held = {}, {}

-- All together, when everything is written: one command per stream.
local function acknowledge(d)
  local stream = d.route.stream
  add(acknowledged, stream, d.entry)
  if held[stream] then held[stream][d.entry] = nil end
end

local function acknowledge_all()
  for stream, entries in pairs(acknowledged) do
    redis.pcall('XACK', stream, participant, unpack(entries))
  end
end

-- What this consumer holds of a delivery's stream from its entry on: the batch is likely to go on there.
local function look_up(stream, entry)
  local found, pending = {}, redis.pcall('XPENDING', stream, participant, entry, '+', many, consumer)
  -- With an error the group or the stream is gone, and nothing of it is held.
  for _, row in ipairs(pending.err and NONE or pending) do found[row[1]] = row[4] end
  return found
end

-- Whether the delivery is still this consumer's, and the same one.
local function ours(d)
  local stream, expected = d.route.stream, tonumber(d.deliveries)
  held[stream] = held[stream] or look_up(stream, d.entry)
  local deliveries = held[stream][d.entry]
  if deliveries then return deliveries == expected end
  local pending = redis.pcall('XPENDING', stream, participant, d.entry, d.entry, 1)
  local row = not pending.err and pending[1]
  return row and row[2] == consumer and row[4] == expected
end

-- The answer if the delivery has been decided already: mark is what its saga's record says.
local function decided(d, mark)
  acknowledge(d)
  if string.sub(mark, 2) == d.token then return ANSWERS[string.sub(mark, 1, 1)] end
  return 'duplicate'
end

-- The answer if this attempt has failed before and the next one is parked or under way (noted is what the
-- work says of that), else nil. It was delivered again: its group was set back, or its producer sent it twice.
local function outrun(d, noted)
  local attempt, token = string.match(noted, '^(%d+) (.*)$')
  if tonumber(attempt) < tonumber(d.attempt) then return nil end
  acknowledge(d)
  return token == d.token and 'committed' or 'duplicate'
end

-- Whether the step that a row is about is in other hands: another delivery of the same event has begun it, for a
-- producer sent the event twice or its group was set back. If both ran at once one could abort, and what the other
-- did would be forgotten. Who comes again, after a lease, need not wait: whoever began takes long, or is dead.
local function in_other_hands(d, row)
  return d.deliveries == '1' and not d.noted and string.find(row.status, '^S') and row.status ~= 'S' .. d.token
end

-- Whether a handler may begin: run, stale, or poison if it has begun so often and nothing came of it.
-- A first delivery leaves no trace, and counts as one that has begun. Each later one that begins is noted by
-- its token: if it asks again, because the answer was lost, it counts once.
local function count_run(d, saga)
  if d.deliveries == '1' then return 'run' end
  if not ours(d) then return 'stale' end
  local begun = 1
  for token in string.gmatch(d.runs or '', '%S+') do
    if token == d.token then return 'run' end
    begun = begun + 1
  end
  if begun >= tonumber(d.most) then return 'poison' end
  put(saga, 'sets', 'b:' .. turn_of(d), (d.runs and d.runs .. ' ' or '') .. d.token)
  return 'run'
end

-- Something came of it, after all.
local function forget_runs(d, saga)
  if d.runs then add(saga, 'drops', 'b:' .. turn_of(d)) end
end

local function finish(d, saga, letter, answer)
  forget_runs(d, saga)
  if d.noted then add(saga, 'drops', 'a:' .. turn_of(d)) end
  local obstacle = blocked(saga, keys)
  if obstacle then return 'blocked ' .. obstacle end
  put(saga, 'fields', d.mark, letter .. d.token)
  apply(saga, keys, now)
  acknowledge(d)
  return (answer or ANSWERS[letter]) .. ' ' .. saga.state
end

-- A fact about the delivery. `about`: what else there is to say.
local function fact(d, saga, kind, about)
  local id, letter, route = d.line, saga.letter, d.route
  if about.attempt then
    id = turn_of(d) .. '#' .. about.attempt .. '.' .. d.token
  elseif letter and redis.call('HEXISTS', saga.record, 'l:' .. letter.id) == 1 then
    id = d.line .. '#' .. d.token -- it was replayed, and has failed again
  end
  if letter then letter.fact = kind .. ':' .. id end
  journal(saga, now, kind, id, {
    type = route.type, cause = d.event, participant = participant, step = route.step, undo = d.undo, began = d.began,
    attempt = about.attempt, due = about.due, note = about.note, detail = about.detail,
  })
end

local function unwinds(saga)
  return saga.state ~= 'running' and saga.state ~= 'completed'
end
