-- uses: saga, orders
--
-- Try again a step or an undo that is a dead letter.
--
-- ARGV  7 letter id, 8 its entry, 9 'rehearse' to write nothing, 10 the attempt as the inbox delivers it,
--       then for a join its parts: field in the work hash after x:, packed event
-- Returns {answer, detail}: replayed (and the saga's state); closed (and what became of the letter);
-- unknown; refused (and the saga's state: it does not let this step run any more); blocked (and a key).

local id, entry, rehearsal, attempt = ARGV[7], ARGV[8], ARGV[9] ~= '', ARGV[10]
local obstacle = unreadable()
if obstacle then return { 'blocked', obstacle } end
local saga = open_saga(KEYS[1], KEYS[2], subject, '')
if answered() then return { 'replayed', saga.state } end
local letter = letter_at(entry)
local status, detail = standing(id, letter)
if status ~= 'open' then return { status, detail } end

local line = letter.participant .. '/' .. letter.step .. ':' .. letter.id
local row = row_of(saga, line)

-- The saga waits for something again that it had given up.
local function reopen(next_status)
  row.parents = '' -- settled when it failed
  row.status = next_status
  put_row(saga, line, row)
  count(saga, 1)
  count_failures(saga, -1)
  if saga.state == 'failed' then turn(saga, 'compensating') end
end

local function plan_undo()
  if not row or row.status ~= 'F' then return false end
  reopen('U')
  ask(saga, line, row)
  saga.forgets = { 'u:' .. line }
  add(saga, 'drops', 'a:undo:' .. line)
  return true
end

local function plan_step()
  local forward = saga.state == 'running' or saga.state == 'completed'
  local back = letter.phase == 'back' and row and row.status == 'F'
  if not forward and not back then return false end
  local mark = 'd:' .. letter.participant .. ':' .. letter.id
  -- Its producer sent the event twice, and the other one has succeeded.
  local parked = string.find(letter.fact or '', '^parked:')
  if parked and redis.call('HEXISTS', KEYS[1], mark) == 1 then return false end
  if back and not forward then
    reopen('B')
  elseif row and row.status == 'D' then
    row.status = 'S' -- nobody may undo it while it runs
    put_row(saga, line, row)
  end
  saga.forgets = { mark }
  -- An attempt is to come: as long as it is, the saga is not forgotten.
  put(saga, 'sets', 'a:' .. line, '0 ' .. token)
  for number = 11, #ARGV, 2 do put(saga, 'sets', 'x:' .. ARGV[number], ARGV[number + 1]) end
  return true
end

local inbox = keys.inbox .. letter.participant
local is_undo = (letter.undo or '') ~= ''
local planned
if is_undo then planned = plan_undo() else planned = plan_step() end
if not planned then return { 'refused', saga.state } end
tell(saga, 'replay', about_letter(letter))
obstacle = blocked(saga, keys) or (misfit(inbox, 'stream') and inbox)
if obstacle then return { 'blocked', obstacle } end
if rehearsal then return { 'replayed', saga.state } end
put(saga, 'fields', MARK, '1')
apply(saga, keys, now)
close_letter(id, 'replayed')
if not is_undo then
  redis.call('XADD', inbox, '*', 'id', 'retry', 'type', 'choreo.retry', 'subject', subject, 'time', now,
    'data', attempt)
end
return { 'replayed', saga.state }
