-- uses: saga
--
-- Write what the tracker made of a batch of entries of one partition, all or nothing.
--
-- KEYS  1 progress (hash), 2 dead letters, 3 their states, 4 deadlines, 5 sagas to be made from their
--       traces (zset), then: streams read; indexes; traces, those of new sagas first; views in the same
--       order; records of sagas that letters are about
-- ARGV  1 group, 2 version, 3 how many streams, 4 indexes, 5 sagas, 6 new sagas, 7 letters;
--       then lists, each with its length in front:
--       fields and values of the progress, those of the streams first, each: field, position to be at;
--       of each index: what enters it, each: start time, id; the ids that leave it;
--       deadlines, each: when (ms), id; the ids that have none any more; the ids of sagas that are made from
--       their traces now;
--       of each saga: the view, then the list of its facts;
--       of each letter: id, number of its saga's record ('' none), then the list of fields
-- Returns the new version; -1 when somebody else has written since the caller learnt the version, or
-- the views are being rebuilt: then nothing is written, and the caller must look again where to go on;
-- or the key that is in the way because it has the wrong type: then nothing is written either.
-- One version for the whole partition: a view may be made of facts from any of its streams.

local streams, indexes, sagas = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local first_index = 5 + streams
local first_trace = first_index + indexes
local at = 7
local function take()
  at = at + 1
  return ARGV[at]
end

-- Arguments of one command, as many as its limit allows.
local MANY = 1000

-- A command about the next list, if there is anything in it.
local function write(command, key)
  local count = tonumber(take())
  for first = at + 1, at + count, MANY do
    redis.call(command, key, unpack(ARGV, first, math.min(at + count, first + MANY - 1)))
  end
  at = at + count
end

-- The first of some keys, if any, that has another type.
local function find_misfit(wanted, first, last)
  for number = first, last do
    if misfit(KEYS[number], wanted) then return KEYS[number] end
  end
end

-- Traces that are not there yet are the rule, and one question tells.
local function find_misfit_in_traces(new)
  for first = first_trace + 1, first_trace + new, MANY do
    local last = math.min(first_trace + new, first + MANY - 1)
    local found = redis.call('EXISTS', unpack(KEYS, first, last)) > 0 and find_misfit('list', first, last)
    if found then return found end
  end
  return find_misfit('list', first_trace + new + 1, first_trace + sagas)
end

local function obstacle()
  return (ARGV[7] ~= '0' and (find_misfit('stream', 2, 2) or find_misfit('hash', 3, 3)))
    or find_misfit('zset', 4, 5)
    or find_misfit('zset', first_index + 1, first_trace)
    or find_misfit_in_traces(tonumber(ARGV[6]))
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

if misfit(KEYS[1], 'hash') then return KEYS[1] end
local known = redis.call('HMGET', KEYS[1], 'version', 'wiping')
if (known[1] or '0') ~= ARGV[2] or known[2] then return -1 end
local key = obstacle()
if key then return key end

local version = redis.call('HINCRBY', KEYS[1], 'version', 1)
-- Listed first: what is to be rebuilt is found by its index.
local positions = at + 1
write('HSET', KEYS[1])
for number = first_index + 1, first_trace do
  write('ZADD', KEYS[number])
  write('ZREM', KEYS[number])
end
write('ZADD', KEYS[4])
write('ZREM', KEYS[4])
write('ZREM', KEYS[5])
local views = {}
for number = 1, sagas do
  views[2 * number - 1] = KEYS[first_trace + sagas + number]
  views[2 * number] = take()
  write('RPUSH', KEYS[first_trace + number])
end
for first = 1, 2 * sagas, MANY do
  redis.call('MSET', unpack(views, first, math.min(2 * sagas, first + MANY - 1)))
end
for _ = 1, tonumber(ARGV[7]) do write_letter() end
-- Moving the group along lets generic tools see how far the tracker is, and trimming stay behind it.
for number = 1, streams do
  redis.pcall('XGROUP', 'SETID', KEYS[5 + number], ARGV[1], ARGV[positions + 2 * number])
end
return version
