-- Whether steps may begin that leave no trace by that: without an undo, no joins, and delivered for the first time.
--
-- Most only need their saga's state, and no mark in the way. Whatever else there is to it, the caller learns by the
-- gate's `begin`. It is a script of its own, because it is asked once for every delivery, and the gate's is long.
--
-- KEYS  of each step the record and the work of its saga
-- ARGV  1 participant; of each step its name, the id of its event, and what the caller believes its saga's type to be
--
-- Returns one answer per step: `run` and the saga's type, or `ask`.

local participant = ARGV[1]

local function look(record, work, step, event, sagatype)
  local known = redis.pcall('HMGET', record, 'state', 'type', 'open', 'd:' .. participant .. ':' .. event)
  local state = known[1] or 'running'
  if known.err or known[4] or state ~= 'running' and state ~= 'completed' then return 'ask' end
  if known[3] and redis.pcall('HEXISTS', work, 'a:' .. participant .. '/' .. step .. ':' .. event) ~= 0 then
    return 'ask'
  end
  return 'run ' .. (known[2] or sagatype)
end

local answers = {}
for number = 1, #KEYS / 2 do
  answers[number] = look(KEYS[2 * number - 1], KEYS[2 * number], unpack(ARGV, 3 * number - 1, 3 * number + 1))
end
return answers
