-- A delivery that is being decided about: what the caller says of it, and whether it may decide.
--
-- For the gate, which says what KEYS and ARGV hold.

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

---- what has become of it -----------------------------------------------------------------------

-- Stream -> entries to acknowledge, and entry -> how often it was delivered to this consumer, as far as
-- that has been looked up.
local acknowledged, held = {}, {}

-- All together, when everything is written: one command per stream.
local function acknowledge(d)
  local entries = acknowledged[d.stream] or {}
  entries[#entries + 1] = d.entry
  acknowledged[d.stream] = entries
  if held[d.stream] then held[d.stream][d.entry] = nil end
end

local function acknowledge_all()
  for stream, entries in pairs(acknowledged) do
    redis.pcall('XACK', stream, participant, unpack(entries))
  end
end

-- What this consumer holds of a delivery's stream from its entry on: the batch is likely to go on there.
local function look_up(d)
  local found, pending = {}, redis.pcall('XPENDING', d.stream, participant, d.entry, '+', ARGV[5], consumer)
  -- With an error the group or the stream is gone, and nothing of it is held.
  for _, row in ipairs(pending.err and {} or pending) do found[row[1]] = row[4] end
  return found
end

-- Whether the delivery is still this consumer's, and the same one.
local function ours(d)
  if not held[d.stream] then held[d.stream] = look_up(d) end
  local deliveries = held[d.stream][d.entry]
  if deliveries then return deliveries == d.deliveries end
  local pending = redis.pcall('XPENDING', d.stream, participant, d.entry, d.entry, 1)
  local row = not pending.err and pending[1]
  return row and row[2] == consumer and row[4] == d.deliveries
end

-- The answer if the delivery has been decided already (mark is what its saga's record says), else nil.
local function decided(d, mark)
  if not mark then return nil end
  acknowledge(d)
  if string.sub(mark, 2) == d.token then return { ANSWERS[string.sub(mark, 1, 1)] } end
  return { 'duplicate' }
end

-- The answer if this attempt has failed before and the next one is parked or under way (noted is what the
-- work says of that), else nil. It was delivered again: its group was set back, or its producer sent it twice.
local function outrun(d, noted)
  if not noted then return nil end
  local attempt, token = string.match(noted, '^(%d+) (.*)$')
  if tonumber(attempt) < d.attempt then return nil end
  acknowledge(d)
  return { token == d.token and 'committed' or 'duplicate' }
end

-- Whether a handler may begin: run, stale, or poison if it has begun so often and nothing came of it.
-- A first delivery leaves no trace, and counts as one that has begun. Each later one that begins is noted by
-- its token: if it asks again, because the answer was lost, it counts once.
local function count_run(d, saga)
  if d.deliveries == 1 then return 'run' end
  if not ours(d) then return 'stale' end
  local begun = 1
  for token in string.gmatch(d.runs or '', '%S+') do
    if token == d.token then return 'run' end
    begun = begun + 1
  end
  if begun >= d.most then return 'poison' end
  put(saga, 'sets', 'b:' .. d.turn, (d.runs and d.runs .. ' ' or '') .. d.token)
  return 'run'
end

-- Something came of it, after all.
local function forget_runs(d, saga)
  if d.runs then add(saga, 'drops', 'b:' .. d.turn) end
end

local function finish(d, saga, letter, answer)
  forget_runs(d, saga)
  if d.noted then add(saga, 'drops', 'a:' .. d.turn) end
  local obstacle = blocked(saga, keys)
  if obstacle then return { 'blocked', obstacle } end
  put(saga, 'fields', d.mark, letter .. d.token)
  apply(saga, keys, now)
  acknowledge(d)
  return { answer or ANSWERS[letter], saga.state }
end

local function fact(d, saga, kind, about)
  about.type, about.cause, about.participant, about.step = d.type, d.event, participant, d.step
  about.began = d.began
  local id = d.line
  local letter = saga.letter
  if about.attempt then
    id = d.turn .. '#' .. about.attempt .. '.' .. d.token
  elseif letter and redis.call('HEXISTS', saga.record, 'l:' .. letter.id) == 1 then
    id = d.line .. '#' .. d.token -- it was replayed, and has failed again
  end
  if letter then letter.fact = kind .. ':' .. id end
  journal(saga, now, kind, id, about)
end

local function unwinds(saga)
  return saga.state ~= 'running' and saga.state ~= 'completed'
end
