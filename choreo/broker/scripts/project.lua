-- uses: saga
--
-- Write what the tracker made of a batch of entries of one partition, all or nothing.
--
-- KEYS  1 progress (hash), 2 dead letters, 3 their states, 4 deadlines, 5 sagas to be made from their
--       traces (zset), then: streams read; views, traces, indexes
-- ARGV  1 group, 2 version, 3 how many lists and indexes, each: key number, type that it must have;
--       how many streams, each: key number, position to be at;
--       how many sagas, each: view key number, trace key number, id, view, start time,
--         index to leave ('' none), index to be in, next deadline (ms; '' none),
--         how many facts, the facts;
--       how many letters, each: id, number of its saga's record ('' none), how many fields, the fields;
--       how many sagas are made from their traces now, their ids
-- Returns the new version; -1 when somebody else has written since the caller learnt the version, or
-- the views are being rebuilt: then nothing is written, and the caller must look again where to go on;
-- or the key that is in the way because it has the wrong type: then nothing is written either.
-- One version for the whole partition: a view may be made of facts from any of its streams.

local at = 2
local function take()
  at = at + 1
  return ARGV[at]
end
local function take_key() return KEYS[tonumber(take())] end

local function obstacle()
  if misfit(KEYS[1], 'hash') then return KEYS[1] end
  if misfit(KEYS[2], 'stream') then return KEYS[2] end
  if misfit(KEYS[3], 'hash') then return KEYS[3] end
  if misfit(KEYS[4], 'zset') then return KEYS[4] end
  if misfit(KEYS[5], 'zset') then return KEYS[5] end
  for _ = 1, tonumber(take()) do
    local key, wanted = take_key(), take()
    if misfit(key, wanted) then return key end
  end
  return nil
end

local function remember(trace, count)
  for first = at + 1, at + count, 1000 do
    redis.call('RPUSH', trace, unpack(ARGV, first, math.min(at + count, first + 999)))
  end
  at = at + count
end

local function write_saga()
  local view, trace, id, packed, started = take_key(), take_key(), take(), take(), take()
  local leave, enter = take(), KEYS[tonumber(take())]
  -- Listed first: what is to be rebuilt is found by its index.
  redis.call('ZADD', enter, started, id)
  redis.call('HSET', KEYS[1], 'index:' .. enter, '1')
  if leave ~= '' and KEYS[tonumber(leave)] ~= enter then redis.call('ZREM', KEYS[tonumber(leave)], id) end
  redis.call('SET', view, packed)
  local due = take()
  if due == '' then redis.call('ZREM', KEYS[4], id) else redis.call('ZADD', KEYS[4], due, id) end
  remember(trace, tonumber(take()))
end

local function write_letter()
  local letter, record, count = take(), KEYS[tonumber(take()) or 0], tonumber(take())
  if redis.call('HSETNX', KEYS[3], letter, 'open') == 1 then
    local entry = redis.call('XADD', KEYS[2], '*', 'letter', letter, unpack(ARGV, at + 1, at + count))
    -- Whoever resolves the saga finds its letters there. A saga of which nothing else is known has none.
    if record and not misfit(record, 'hash') and redis.call('EXISTS', record) == 1 then
      redis.call('HSET', record, 'l:' .. letter, entry)
    end
  end
  at = at + count
end

local known = misfit(KEYS[1], 'hash') and {} or redis.call('HMGET', KEYS[1], 'version', 'wiping')
local key = obstacle()
if key then return key end
if (known[1] or '0') ~= ARGV[2] or known[2] then return -1 end
local version = redis.call('HINCRBY', KEYS[1], 'version', 1)
local streams = {}
for number = 1, tonumber(take()) do
  streams[number] = { take_key(), take() }
  redis.call('HSET', KEYS[1], 'at:' .. streams[number][1], streams[number][2])
end
for _ = 1, tonumber(take()) do write_saga() end
for _ = 1, tonumber(take()) do write_letter() end
for _ = 1, tonumber(take()) do redis.call('ZREM', KEYS[5], take()) end
-- Moving the group along lets generic tools see how far the tracker is, and trimming stay behind it.
for _, stream in ipairs(streams) do
  redis.pcall('XGROUP', 'SETID', stream[1], ARGV[1], stream[2])
end
return version
