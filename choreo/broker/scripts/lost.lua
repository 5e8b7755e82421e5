-- uses: saga
--
-- Tell a saga that one of its entries was deleted before a participant handled it.
--
-- KEYS  1 record, 2 work, 3 journal, 4 dead letters, 5 their states, 6 timers, 7 what is parked
-- ARGV  1 now (ms), 2 saga id, 3 prefix of inboxes, 4 letter id, 5 its entry, 6 participant, 7 type of the
--       event that is lost, 8 its id, 9 what was lost, for people
-- Returns told; known (it was told before, or somebody has settled the letter); or blocked and a key.
--
-- The letter is written again, now with its saga. The letter of before goes: so it happens once.

local id, entry, fact = ARGV[4], ARGV[5], 'lost:' .. ARGV[4]
for number = 1, 2 do
  if misfit(KEYS[number], 'hash') then return { 'blocked', KEYS[number] } end
end
if misfit(KEYS[4], 'stream') then return { 'blocked', KEYS[4] } end
if misfit(KEYS[5], 'hash') then return { 'blocked', KEYS[5] } end
local former = redis.call('XRANGE', KEYS[4], entry, entry)[1]
if not former or redis.call('HGET', KEYS[5], id) ~= 'open' then return { 'known', '' } end

local saga = open_saga(KEYS[1], KEYS[2], ARGV[2], '')
local keys = {
  journal = KEYS[3], dead = KEYS[4], letters = KEYS[5], timers = KEYS[6], parked = KEYS[7], inbox = ARGV[3],
}
journal(saga, ARGV[1], 'lost', id, {
  participant = ARGV[6], type = ARGV[7], cause = ARGV[8], note = ARGV[9], detail = 'entry-lost',
})
local obstacle = blocked(saga, keys)
if obstacle then return { 'blocked', obstacle } end
put(saga, 'fields', 'l:' .. id, entry)
apply(saga, keys, ARGV[1])
local fields = former[2]
for _, each in ipairs({ 'subject', ARGV[2], 'fact', fact, 'type', ARGV[7], 'id', ARGV[8], 'error', ARGV[9] }) do
  fields[#fields + 1] = each
end
local again = redis.call('XADD', keys.dead, '*', unpack(fields))
redis.call('HSET', KEYS[1], 'l:' .. id, again)
redis.call('XDEL', keys.dead, entry)
return { 'told', '' }
