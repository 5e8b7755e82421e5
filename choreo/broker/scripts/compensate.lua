-- uses: saga
--
-- Unwind a running saga on an operator's word.
--
-- KEYS  1 record, 2 work, 3 journal, 4 dead letters, 5 their states, 6 timers, 7 what is parked
-- ARGV  1 now (ms), 2 saga id, 3 prefix of inboxes, 4 token, 5 why, 6 who
-- Returns {answer, state}: committed; closed (it has ended, or unwinds already); unknown; blocked.

for number = 1, 2 do
  if misfit(KEYS[number], 'hash') then return { 'blocked', KEYS[number] } end
end
local saga = open_saga(KEYS[1], KEYS[2], ARGV[2], '')
local keys = {
  journal = KEYS[3], dead = KEYS[4], letters = KEYS[5], timers = KEYS[6], parked = KEYS[7], inbox = ARGV[3],
}
if saga.changed then return { 'unknown', '' } end
local mark = 'o:' .. ARGV[4]
if redis.call('HEXISTS', KEYS[1], mark) == 1 then return { 'committed', saga.state } end
if saga.state ~= 'running' then return { 'closed', saga.state } end
unwind(saga)
journal(saga, ARGV[1], 'ordered', ARGV[4], { order = 'compensate', note = ARGV[5], detail = ARGV[6] })
local obstacle = blocked(saga, keys)
if obstacle then return { 'blocked', obstacle } end
put(saga, 'fields', mark, '1')
apply(saga, keys, ARGV[1])
return { 'committed', saga.state }
