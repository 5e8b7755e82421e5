-- Write what the tracker made of a batch of entries of one partition, all or nothing.
--
-- KEYS  1 progress (hash), 2 dead letters, 3 their states, then: streams read; views, traces, indexes
-- ARGV  1 group, 2 version, 3 how many streams, each: key number, position to be at;
--       how many sagas, each: view key number, trace key number, id, view, start time,
--         index to leave ('' none), index to be in, its key number, how many facts, the facts;
--       how many letters, each: id, how many fields, the fields
-- Returns the new version, or -1 when somebody else has written since the caller learnt the version, or
-- the views are being rebuilt: then nothing is written, and the caller must look again where to go on.
-- One version for the whole partition: a view may be made of facts from any of its streams.

local at = 2
local function take()
  at = at + 1
  return ARGV[at]
end
local function take_key() return KEYS[tonumber(take())] end

local known = redis.call('HMGET', KEYS[1], 'version', 'wiping')
if (known[1] or '0') ~= ARGV[2] or known[2] then return -1 end
local version = redis.call('HINCRBY', KEYS[1], 'version', 1)
local streams = {}
for number = 1, tonumber(take()) do
  streams[number] = { take_key(), take() }
  redis.call('HSET', KEYS[1], 'at:' .. streams[number][1], streams[number][2])
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
return version
