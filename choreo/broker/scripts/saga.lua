-- What every script that changes a saga shares.
--
-- A change is planned first and applied then. Planning only reads; it collects what is to be written.
-- apply() looks at every target before it writes, because nothing is rolled back when a command fails
-- half-way. Its first write is an HSET, which the server refuses when it is out of memory.
--
-- Record (hash {tag}:saga:<id>)           Work (hash {tag}:work:<id>)
--   state, seq    how it stands              e:<entry> "<status> <children> <parents>"
--   type, origin  saga type, first event     i:<entry> packed input     r:<entry> packed result
--   open          unsettled ledger entries   f                          how many ledger entries failed
--   all           ends seen of `all: [...]`  j:<p>/<s>:<type>, k:...    a join's part and its ledger
--   d:<p>:<event> done mark of a step        x:<entry>:<type>           parts of a join that fired
--   u:<entry>     done mark of an undo       a:<entry>, a:undo:<entry>  last attempt that failed
--   l:<letter>    entry of a dead letter     b:<entry>, b:undo:<entry>  tokens of runs that began
--   o:<token>     an order carried out       t:<p>/<step>:<event>       an event that is planned
--
-- Most sagas never have any work. As long as a record has no `open`, there is none, and nobody looks for it.
-- An entry is <participant>/<step>:<event id>. Status: S started, and the token of who began it; D done, U undo
-- asked for, F failed; and B for a step of the way back that failed and runs again on an operator's word.
-- `children` counts the entries that it caused and that are not settled.

-- Causes of one step that are looked up. A join has a handful; a foreign producer may claim thousands.
local MAX_PARENTS = 256
local ENTRY = '^([^/]+)/(.-):(.*)$'
local NONE = {}

-- The greatest id that a stream can have. Behind an entry with it nothing can be added any more.
local LAST = '18446744073709551615-18446744073709551615'

-- Types of keys, looked up once in a script's run.
local kinds = {}
local function misfit(key, wanted)
  local kind = kinds[key]
  if kind == nil then
    kind = redis.call('TYPE', key)
    if type(kind) == 'table' then kind = kind.ok end
    if kind == 'stream' and redis.call('XRANGE', key, LAST, LAST)[1] then kind = 'full stream' end
    kinds[key] = kind
  end
  return kind ~= 'none' and kind ~= wanted
end

-- A saga's change, being planned. subject is its id; sagatype is what the caller believes its type to be;
-- known are its state, seq, type and open, if the caller has them.
--
-- `blank`: by what the record says, there is nothing in the work. Whoever has looked sets `sound`: the record is a
-- hash if it is there at all; and so is the work, unless it is blank, for then nobody has looked at it.
--
-- What the change consists of is listed as it comes up, by add() and put(), for most changes have little
-- of it: `fields` and `forgets` of the record, `sets` and `drops` of the work, `rows` of the ledger that are
-- known and those of them that are `dirty`, `asks` for undos, `events`, `journal`, `timers`, `voids`, `hurry`.
local function open_saga(record, work, subject, sagatype, known)
  known = known or redis.call('HMGET', record, 'state', 'seq', 'type', 'open')
  return {
    record = record, work = work, subject = subject, sound = false, blank = not known[4], changed = not known[1],
    state = known[1] or 'running', seq = known[2] or '0', type = known[3] or sagatype,
    open = known[4] and tonumber(known[4]) or 0,
  }
end

local function add(saga, name, item)
  local list = saga[name]
  if list then list[#list + 1] = item else saga[name] = { item } end
end

local function put(saga, name, field, value)
  local list = saga[name]
  if list then
    list[#list + 1] = field
    list[#list + 1] = value
  else
    saga[name] = { field, value }
  end
end

local function turn(saga, state)
  saga.state = state
  saga.seq = tostring(saga.seq + 1)
  saga.turned = true
  saga.changed = true
end

---- the ledger ----------------------------------------------------------------------------------

-- There are so many more entries that are not settled.
local function count(saga, more)
  saga.open = saga.open + more
  saga.counted = true
end

-- How many entries have failed.
local function failures(saga)
  if saga.blank then return 0 end
  return tonumber(redis.call('HGET', saga.work, 'f') or 0)
end

local function count_failures(saga, more)
  saga.failed = (saga.failed or failures(saga)) + more
end

local function parse_row(text)
  local status, children, parents = string.match(text, '^(%S+) (%d+) ?(.*)$')
  return { status = status, children = tonumber(children), parents = parents }
end

-- The rows of the ledger that are known.
local function rows_of(saga)
  saga.rows = saga.rows or {}
  return saga.rows
end

-- The ledger's row of an entry, or nothing.
local function row_of(saga, entry)
  local row = saga.rows and saga.rows[entry]
  if row == nil and not saga.blank then
    local text = redis.call('HGET', saga.work, 'e:' .. entry)
    row = text and parse_row(text) or false
    rows_of(saga)[entry] = row
  end
  return row
end

local function put_row(saga, entry, row)
  rows_of(saga)[entry] = row
  saga.dirty = saga.dirty or {}
  saga.dirty[entry] = true
end

-- Ledger entries of several events as one list, each once.
local function merge(ledgers)
  local seen, merged = {}, {}
  for parent in string.gmatch(table.concat(ledgers, ' '), '%S+') do
    if not seen[parent] and #merged < MAX_PARENTS then
      seen[parent] = true
      merged[#merged + 1] = parent
    end
  end
  return merged
end

-- Enter a step that is about to run (or has run). Only parents that are in the ledger count.
local function enter(saga, entry, status, parents)
  local known = {}
  for _, parent in ipairs(merge({ parents })) do
    local row = row_of(saga, parent)
    if row and parent ~= entry then
      row.children = row.children + 1
      put_row(saga, parent, row)
      known[#known + 1] = parent
    end
  end
  put_row(saga, entry, { status = status, children = 0, parents = table.concat(known, ' ') })
  count(saga, 1)
end

local function ask(saga, entry, row)
  row.status = 'U'
  put_row(saga, entry, row)
  add(saga, 'asks', entry)
end

-- Nothing is left to do for this entry: its parents may be next.
local function settle(saga, entry, row, failed)
  for parent in string.gmatch(row.parents, '%S+') do
    local above = row_of(saga, parent)
    if above then
      above.children = above.children - 1
      put_row(saga, parent, above)
      if above.children == 0 and above.status == 'D' and saga.state ~= 'running' then
        ask(saga, parent, above)
      end
    end
  end
  count(saga, -1)
  if failed then
    row.status = 'F'
    put_row(saga, entry, row)
    count_failures(saga, 1)
  else
    put_row(saga, entry, false)
    add(saga, 'drops', 'i:' .. entry)
    add(saga, 'drops', 'r:' .. entry)
  end
end

-- If the saga unwinds and nothing is left to undo, it has ended.
local function close_if_unwound(saga)
  if saga.state == 'compensating' and saga.open == 0 then
    turn(saga, (saga.failed or failures(saga)) > 0 and 'failed' or 'compensated')
  end
end

-- Event ids are unique within a saga only; a timer's id names the saga, too.
local function timer_id(saga, line)
  return line .. ' ' .. saga.subject
end

-- If a field of the work says that an event is planned: it will not be published any more.
local function void(saga, field)
  if string.sub(field, 1, 2) == 't:' then
    add(saga, 'voids', timer_id(saga, 'plan:' .. string.sub(field, 3)))
  end
end

-- From open to unwinding: every entry that caused nothing which is left to undo is undone first.
-- Half-filled joins go: what they wait for would not be let through any more. So do planned events.
local function unwind(saga)
  turn(saga, 'compensating')
  for _, field in ipairs(saga.blank and NONE or redis.call('HKEYS', saga.work)) do
    if string.sub(field, 1, 2) == 'e:' then
      row_of(saga, string.sub(field, 3))
    elseif string.find(field, '^[jkt]:') then
      add(saga, 'drops', field)
      void(saga, field)
    end
  end
  local leaves = {}
  for entry, row in pairs(rows_of(saga)) do
    if row and row.status == 'D' and row.children == 0 then leaves[#leaves + 1] = entry end
    -- A step that waits for its next attempt may have taken effect. It shall be looked at now.
    if row and string.find(row.status, '^S') then add(saga, 'hurry', entry) end
  end
  table.sort(leaves)
  for _, entry in ipairs(leaves) do ask(saga, entry, saga.rows[entry]) end
  close_if_unwound(saga)
end

---- facts ---------------------------------------------------------------------------------------

local function append(fields, name, value)
  if value ~= nil and value ~= false and value ~= '' then
    fields[#fields + 1] = name
    fields[#fields + 1] = value
  end
end

-- Put the state change and the requests to undo of this commit on the fact that tells of it.
local function append_outcome(saga, fields)
  if saga.turned then
    append(fields, 'state', saga.state)
    append(fields, 'seq', saga.seq)
    saga.turned = false
  end
  if saga.asks and not saga.told then
    append(fields, 'asks', table.concat(saga.asks, ' '))
    saga.told = true
  end
end

-- What is particular to the kinds of journal entries.
local ATTRIBUTES = {
  'type', 'cause', 'participant', 'step', 'undo', 'began', 'attempt', 'due', 'note', 'detail', 'order', 'settles',
}

-- A journal entry. `about` holds those attributes that it has.
local function journal(saga, now, kind, id, about)
  local fields = { 'id', kind .. ':' .. id, 'kind', kind, 'subject', saga.subject, 'time', now }
  append(fields, 'sagatype', saga.type)
  for _, name in ipairs(ATTRIBUTES) do
    if about[name] then append(fields, name, about[name]) end
  end
  append_outcome(saga, fields)
  add(saga, 'journal', fields)
end

---- writing -------------------------------------------------------------------------------------

-- The first target that could not be written (of the wrong type, or a stream that is full), or nil.
-- keys: journal, dead, letters, timers, parked, inbox (a prefix).
local function blocked(saga, keys)
  if not saga.sound and misfit(saga.record, 'hash') then return saga.record end
  local unseen = not saga.sound or saga.blank and (saga.sets or saga.dirty or saga.drops)
  if unseen and misfit(saga.work, 'hash') then return saga.work end
  if not keys.sound then
    if misfit(keys.journal, 'stream') then return keys.journal end
    if misfit(keys.timers, 'zset') then return keys.timers end
    if misfit(keys.parked, 'hash') then return keys.parked end
    keys.sound = true
  end
  if saga.letter then
    if misfit(keys.dead, 'stream') then return keys.dead end
    if misfit(keys.letters, 'hash') then return keys.letters end
  end
  if saga.events then
    for _, event in ipairs(saga.events) do
      if misfit(event[1], 'stream') then return event[1] end
    end
  end
  if saga.asks then
    for _, entry in ipairs(saga.asks) do
      local inbox = keys.inbox .. string.match(entry, ENTRY)
      if misfit(inbox, 'stream') then return inbox end
    end
  end
  return nil
end

-- Lua hands over only so many arguments at once; a saga of thousands of steps may have more fields.
local function drop_fields(saga, fields)
  for first = 1, #fields, 1000 do
    redis.call('HDEL', saga.work, unpack(fields, first, math.min(#fields, first + 999)))
  end
end

local function set_fields(saga, fields)
  saga.blank = false
  for first = 1, #fields, 1000 do
    redis.call('HSET', saga.work, unpack(fields, first, math.min(#fields, first + 999)))
  end
end

local function write_ledger(saga)
  for entry in pairs(saga.dirty or NONE) do
    local row = saga.rows[entry]
    if row then
      put(saga, 'sets', 'e:' .. entry, row.status .. ' ' .. row.children .. ' ' .. row.parents)
    else
      add(saga, 'drops', 'e:' .. entry)
    end
  end
  if saga.failed == 0 then add(saga, 'drops', 'f') elseif saga.failed then put(saga, 'sets', 'f', saga.failed) end
  if saga.sets then set_fields(saga, saga.sets) end
  if saga.drops then drop_fields(saga, saga.drops) end
end

-- A completed saga is never undone: its ledger goes, and what it planned. What joins still wait with stays,
-- and what is known of steps that have no outcome yet.
local function forget_ledger(saga)
  local drops = {}
  for _, field in ipairs(redis.call('HKEYS', saga.work)) do
    if not string.find(field, '^[abjkx]:') then drops[#drops + 1] = field end
    void(saga, field)
  end
  drop_fields(saga, drops)
end

local function send_asks(saga, keys, now)
  for _, entry in ipairs(saga.asks) do
    redis.call('XADD', keys.inbox .. string.match(entry, ENTRY), '*', 'id', 'undo',
      'type', 'choreo.undo', 'subject', saga.subject, 'time', now, 'sagatype', saga.type, 'data', entry)
  end
end

local function write_journal(saga, keys)
  for _, fact in ipairs(saga.journal or NONE) do redis.call('XADD', keys.journal, '*', unpack(fact)) end
end

local function set_timers(saga, keys, now)
  for _, id in ipairs(saga.voids or NONE) do
    redis.call('ZREM', keys.timers, id)
    redis.call('HDEL', keys.parked, id, 's:' .. id)
  end
  for _, entry in ipairs(saga.hurry or NONE) do redis.call('ZADD', keys.timers, 'XX', now, timer_id(saga, entry)) end
  for _, timer in ipairs(saga.timers or NONE) do
    redis.call('HSET', keys.parked, timer.id, timer.payload, 's:' .. timer.id, saga.subject)
    redis.call('ZADD', keys.timers, timer.due, timer.id)
  end
end

-- A letter stands once. One that was replayed, and whose delivery fails again, is open again, with what
-- went wrong this time.
local function write_letter(saga, keys)
  local letter = saga.letter
  if redis.call('HGET', keys.letters, letter.id) == 'open' then return end
  local index = 'l:' .. letter.id
  local former = redis.call('HGET', saga.record, index)
  redis.call('HSET', keys.letters, letter.id, 'open')
  if former then redis.call('XDEL', keys.dead, former) end
  local entry = redis.call('XADD', keys.dead, '*', 'letter', letter.id, 'fact', letter.fact or '', unpack(letter.fields))
  redis.call('HSET', saga.record, index, entry)
end

-- Have the record say that there is something in the work, and how many entries of it are not settled: none
-- if the saga completes, for then the ledger goes.
local function note_open(saga, completes)
  local begins = saga.blank and (saga.sets or saga.dirty)
  if begins or saga.counted or completes and not saga.blank then
    put(saga, 'fields', 'open', completes and 0 or saga.open)
  end
end

local function record_fields(saga)
  local fields = saga.fields or NONE
  if not saga.changed then return unpack(fields) end
  if saga.type == '' then return 'state', saga.state, 'seq', saga.seq, unpack(fields) end
  return 'state', saga.state, 'seq', saga.seq, 'type', saga.type, unpack(fields)
end

-- Write a planned change. Only to be called when blocked() found nothing.
local function apply(saga, keys, now)
  local completes = saga.changed and saga.state == 'completed'
  note_open(saga, completes)
  if saga.changed or saga.fields then redis.call('HSET', saga.record, record_fields(saga)) end
  if saga.forgets then redis.call('HDEL', saga.record, unpack(saga.forgets)) end
  if saga.dirty or saga.failed or saga.sets or saga.drops then write_ledger(saga) end
  if completes and not saga.blank then forget_ledger(saga) end
  if saga.events then
    for _, event in ipairs(saga.events) do redis.call('XADD', unpack(event)) end
  end
  if saga.asks then send_asks(saga, keys, now) end
  if saga.journal then write_journal(saga, keys) end
  if saga.voids or saga.hurry or saga.timers then set_timers(saga, keys, now) end
  if saga.letter then write_letter(saga, keys) end
end
