-- uses: saga, orders
--
-- Add an entry that was refused to its stream once more.
--
-- KEYS  8 the stream
-- ARGV  7 letter id, 8 its entry, 9 'rehearse' to write nothing, then the fields of the new entry
-- Returns {answer, detail}: replayed; closed (and what became of the letter); unknown; blocked (and a key).
-- A refused entry may belong to no saga; then ARGV[2] is empty, and KEYS[1] and KEYS[2] are not looked at.

local id, entry, rehearsal = ARGV[7], ARGV[8], ARGV[9] ~= ''
local obstacle = unreadable()
if obstacle then return { 'blocked', obstacle } end
local letter = letter_at(entry)
local status, detail = standing(id, letter)
-- What is added becomes another letter if it is refused again: this one does not open any more.
if string.match(detail, '^replayed %d+ (%S+)') == token then return { 'replayed', '' } end
if status ~= 'open' then return { status, detail } end
if misfit(KEYS[8], 'stream') then return { 'blocked', KEYS[8] } end
local saga = open_saga(KEYS[1], KEYS[2], subject, '')
if subject ~= '' then tell(saga, 'replay', about_letter(letter)) end
obstacle = blocked(saga, keys)
if obstacle then return { 'blocked', obstacle } end
if rehearsal then return { 'replayed', '' } end
close_letter(id, 'replayed')
redis.call('XADD', KEYS[8], '*', unpack(ARGV, 10))
write_journal(saga, keys)
return { 'replayed', '' }
