-- uses: saga, orders
--
-- Delete a dead letter. Its saga stays as it is; a step that was left to an operator is settled by that, so
-- that it does not run should its event come again.
--
-- ARGV  7 letter id, 8 its entry, 9 'rehearse' to write nothing
-- Returns {answer, detail}: dropped; closed (and what became of the letter); unknown; blocked (and a key).
-- A letter may belong to no saga; then ARGV[2] is empty, and KEYS[1] and KEYS[2] are not looked at.

local id, entry, rehearsal = ARGV[7], ARGV[8], ARGV[9] ~= ''
local obstacle = unreadable()
if obstacle then return { 'blocked', obstacle } end
local letter = letter_at(entry)
local status, detail = standing(id, letter)
if string.match(detail, '^dropped %d+ (%S+)') == token then return { 'dropped', '' } end
if status ~= 'open' then return { status, detail } end
local saga = open_saga(KEYS[1], KEYS[2], subject, '')
if subject ~= '' then tell(saga, 'drop', about_letter(letter)) end
obstacle = blocked(saga, keys)
if obstacle then return { 'blocked', obstacle } end
if rehearsal then return { 'dropped', '' } end
close_letter(id, 'dropped')
redis.call('XDEL', keys.dead, entry)
if subject ~= '' then redis.call('HDEL', KEYS[1], 'l:' .. id) end
if string.find(letter.fact or '', '^parked:') then
  redis.call('HSETNX', KEYS[1], 'd:' .. letter.participant .. ':' .. letter.id, 'x' .. token)
  redis.call('HDEL', KEYS[2], 'a:' .. letter.participant .. '/' .. letter.step .. ':' .. letter.id)
end
write_journal(saga, keys)
return { 'dropped', '' }
