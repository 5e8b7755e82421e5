-- Write what the tracker made of a batch of entries of one partition, all or nothing.
--
-- KEYS  1 progress (hash), 2 dead letters, 3 their states, then: streams read; views, traces, indexes
-- ARGV  1 group, 2 how many streams, each: key number, position before, position after;
--       how many sagas, each: view key number, trace key number, id, view, start time,
--         index to leave ('' none), index to be in, its key number, how many facts, the facts;
--       how many letters, each: id, how many fields, the fields
-- Returns 'ok', or 'behind' when another tracker has read further, or the views are being rebuilt:
-- then nothing is written, and the caller must look again where to go on.

local at = 1
local function take()
  at = at + 1
  return ARGV[at]
end
local function take_key() return KEYS[tonumber(take())] end

local streams = {}
if redis.call('HEXISTS', KEYS[1], 'wiping') == 1 then return 'behind' end
for number = 1, tonumber(take()) do
  local key, before, after = take_key(), take(), take()
  if (redis.call('HGET', KEYS[1], 'at:' .. key) or '0-0') ~= before then return 'behind' end
  streams[number] = { key, after }
end
for _, stream in ipairs(streams) do
  redis.call('HSET', KEYS[1], 'at:' .. stream[1], stream[2])
end
for _ = 1, tonumber(take()) do
  local view, trace, id, packed, started = take_key(), take_key(), take(), take(), take()
  local leave, enter, count = take(), take(), tonumber(take())
  redis.call('SET', view, packed)
  redis.call('RPUSH', trace, unpack(ARGV, at + 1, at + count))
  at = at + count
  if leave ~= '' and leave ~= enter then redis.call('ZREM', KEYS[tonumber(leave)], id) end
  redis.call('ZADD', KEYS[tonumber(enter)], started, id)
  redis.call('HSET', KEYS[1], 'index:' .. KEYS[tonumber(enter)], '1')
end
for _ = 1, tonumber(take()) do
  local letter, count = take(), tonumber(take())
  if redis.call('HSETNX', KEYS[3], letter, 'open') == 1 then
    redis.call('XADD', KEYS[2], '*', 'letter', letter, unpack(ARGV, at + 1, at + count))
  end
  at = at + count
end
-- Moving the group along lets generic tools see how far the tracker is, and trimming stay behind it.
for _, stream in ipairs(streams) do
  redis.pcall('XGROUP', 'SETID', stream[1], ARGV[1], stream[2])
end
return 'ok'
