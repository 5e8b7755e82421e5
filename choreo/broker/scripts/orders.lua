-- What the scripts of operators' orders for one saga share.
--
-- KEYS  1 record, 2 work, 3 journal, 4 dead letters, 5 their states, 6 timers, 7 what is parked
-- ARGV  1 now (ms), 2 saga id, 3 prefix of inboxes, 4 token, 5 who, 6 why; then each script's own
--
-- An order is carried out once: its token is kept in the record, with what was answered. The state of a
-- letter is 'open', or what became of it: "<replayed|dropped|resolved> <ms> <token> <who>".

local now, subject, token, who, why = ARGV[1], ARGV[2], ARGV[4], ARGV[5], ARGV[6]
local keys = {
  journal = KEYS[3], dead = KEYS[4], letters = KEYS[5], timers = KEYS[6], parked = KEYS[7], inbox = ARGV[3],
}
local MARK = 'o:' .. token

-- The first key that could not even be read, or nil.
local function unreadable()
  for number = 1, 2 do
    if misfit(KEYS[number], 'hash') then return KEYS[number] end
  end
  if misfit(keys.dead, 'stream') then return keys.dead end
  if misfit(keys.letters, 'hash') then return keys.letters end
  return nil
end

-- What was answered when this very order came before, or false.
local function answered()
  return redis.call('HGET', KEYS[1], MARK)
end

-- The fields of a letter by the id of its entry, or nil if it is gone.
local function letter_at(entry)
  local found = redis.call('XRANGE', keys.dead, entry, entry)[1]
  if not found then return nil end
  local letter, flat = {}, found[2]
  for column = 1, #flat, 2 do letter[flat[column]] = flat[column + 1] end
  return letter
end

-- How a letter stands: 'open', 'closed' (with what became of it), or 'unknown'.
local function standing(id, letter)
  local state = redis.call('HGET', keys.letters, id)
  if state and state ~= 'open' then return 'closed', state end
  if not state or not letter or letter.letter ~= id then return 'unknown', '' end
  return 'open', state
end

local function close_letter(id, how)
  redis.call('HSET', keys.letters, id, table.concat({ how, now, token, who }, ' '))
end

-- Tell of the order in the journal; `about` names the step that it is about, and what it settles.
local function tell(saga, order, about)
  about.order, about.note, about.detail = order, why, who
  journal(saga, now, 'ordered', token, about)
end

local function about_letter(letter)
  return {
    participant = letter.participant, step = letter.step, undo = letter.undo, cause = letter.id,
    type = letter.type, settles = letter.fact,
  }
end
