-- uses: saga
--
-- Begin a saga: make its record and publish its first event, unless the id is taken.
--
-- KEYS  1 record, 2 work, 3 stream
-- ARGV  1 saga type, 2 event id, then the entry's fields
-- Returns {answer, state}: started; same (the saga began with this very event); conflict; blocked.

for number = 1, 2 do
  if misfit(KEYS[number], 'hash') then return { 'blocked', KEYS[number] } end
end
local saga = open_saga(KEYS[1], KEYS[2], '', ARGV[1])
local origin = redis.call('HGET', KEYS[1], 'origin')
if origin == ARGV[2] then return { 'same', saga.state } end
if not saga.changed then return { 'conflict', saga.state } end
if misfit(KEYS[3], 'stream') then return { 'blocked', KEYS[3] } end
redis.call('HSET', KEYS[1], 'state', saga.state, 'seq', '0', 'type', ARGV[1], 'origin', ARGV[2])
redis.call('XADD', KEYS[3], '*', unpack(ARGV, 3))
return { 'started', saga.state }
