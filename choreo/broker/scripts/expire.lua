-- uses: saga
--
-- Let deadlines of one partition pass: each of the sagas that still runs unwinds, with a SagaTimedOut
-- that says so. Only for the tracker that has projected last: it knows which deadlines are pending.
--
-- KEYS  1 the tracker's progress, 2 deadlines, 3 journal, 4 dead letters, 5 their states, 6 timers, 7 what
--       is parked, 8 stream of SagaTimedOut; then streams that are awaited from, records and works
-- ARGV  1 now (ms), 2 version, 3 prefix of inboxes, 4 how many unread entries to look at, 5 how many sagas,
--       each: record (its key's number; the work follows), id, type, due (ms; '' none is pending any more),
--       whether it may have no record yet, how many event types are awaited,
--       each: stream (its key's number), type; then the id of the SagaTimedOut and its data
-- Returns KEYS[1] or KEYS[2] if it is in the way because it has the wrong type; or -1 when somebody else has projected since, or the views are being rebuilt: nothing is written.
-- Else for each saga
--   fired      it unwinds now              closed     it does not run any more: no deadline is pending
--   moved      it is due later, or never   gone       it must have had a record, and has none any more
--   met        what is awaited has come; the tracker has not read it yet
--   behind     the tracker has too much to read yet for anybody to know
--   blocked    a key, named next, has the wrong type or is full; nothing was changed

local now, most = ARGV[1], tonumber(ARGV[4])
local keys = {
  journal = KEYS[3], dead = KEYS[4], letters = KEYS[5], timers = KEYS[6], parked = KEYS[7], inbox = ARGV[3],
}
local at = 5
local function take()
  at = at + 1
  return ARGV[at]
end

-- What stands in a stream behind the tracker's position: '<type> <saga>' -> true, and whether there is more.
local unread = {}
local function read(stream)
  if not unread[stream] then
    local position = redis.call('HGET', KEYS[1], 'at:' .. stream) or '0-0'
    local entries = redis.pcall('XRANGE', stream, '(' .. position, '+', 'COUNT', most + 1)
    local found = { events = {}, more = entries.err ~= nil or #entries > most }
    for _, entry in ipairs(entries) do
      local type, subject
      for number = 1, #entry[2], 2 do
        if entry[2][number] == 'type' then type = entry[2][number + 1] end
        if entry[2][number] == 'subject' then subject = entry[2][number + 1] end
      end
      found.events[(type or '') .. ' ' .. (subject or '')] = true
    end
    unread[stream] = found
  end
  return unread[stream]
end

local function take_saga()
  local record = tonumber(take())
  local s = {
    record = KEYS[record], work = KEYS[record + 1], id = take(), type = take(), due = take(),
    fresh = take() ~= '', awaited = {},
  }
  for number = 1, tonumber(take()) do s.awaited[number] = { stream = KEYS[tonumber(take())], type = take() } end
  s.event, s.data = take(), take()
  return s
end

-- Whether what is awaited has come, or may have.
local function reprieve(s)
  local behind = false
  for _, awaited in ipairs(s.awaited) do
    local found = read(awaited.stream)
    if found.events[awaited.type .. ' ' .. s.id] then return 'met' end
    behind = behind or found.more
  end
  return behind and 'behind' or nil
end

local function tell(saga, s)
  local entry = {
    KEYS[8], '*', 'id', s.event, 'type', 'SagaTimedOut', 'source', 'choreo', 'subject', s.id, 'time', now,
    'phase', 'back', 'sagatype', saga.type, 'data', s.data,
  }
  append_outcome(saga, entry)
  add(saga, 'events', entry)
end

local function expire(s)
  if s.due == '' or tonumber(s.due) > tonumber(now) then
    if s.due == '' then redis.call('ZREM', KEYS[2], s.id) else redis.call('ZADD', KEYS[2], s.due, s.id) end
    return { 'moved' }
  end
  for _, key in ipairs({ s.record, s.work }) do
    if misfit(key, 'hash') then return { 'blocked', key } end
  end
  local saga = open_saga(s.record, s.work, s.id, s.type)
  local over = saga.state ~= 'running' and 'closed' or (saga.changed and not s.fresh and 'gone')
  if over then
    redis.call('ZREM', KEYS[2], s.id)
    return { over }
  end
  local pardon = reprieve(s)
  if pardon then return { pardon } end
  unwind(saga)
  tell(saga, s)
  local obstacle = blocked(saga, keys)
  if obstacle then return { 'blocked', obstacle } end
  apply(saga, keys, now)
  redis.call('ZREM', KEYS[2], s.id)
  return { 'fired' }
end

if misfit(KEYS[1], 'hash') then return KEYS[1] end
if misfit(KEYS[2], 'zset') then return KEYS[2] end
local known = redis.call('HMGET', KEYS[1], 'version', 'wiping')
if (known[1] or '0') ~= ARGV[2] or known[2] then return -1 end
local answers = {}
for number = 1, tonumber(ARGV[5]) do answers[number] = expire(take_saga()) end
return answers
