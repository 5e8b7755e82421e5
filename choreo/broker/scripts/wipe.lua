-- uses: saga
--
-- Delete a chunk of the tracker's projections of one partition, so that they are built anew.
--
-- KEYS  1 progress (hash), 2 deadlines, 3 sagas to be made from their traces (zset), then the streams that
--       the tracker projects
-- ARGV  1 'begin' or 'go on', 2 prefix of views, 3 prefix of traces, 4 how many sagas at most
-- Returns how many sagas went; -1 when nothing is left (or somebody else has finished the work), which
-- sets the tracker back to the beginning of every stream.
--
-- While `wiping` is set no tracker writes and nothing is trimmed; whoever finds it set (this process may
-- be killed) goes on. The keys of sagas follow from the index that names them, all with the tag of KEYS[1].
--
-- Streams may have been trimmed. `wiping` holds the time (ms) before which they may not be whole: of sagas
-- that began earlier the traces stay, and their views are made from these.

-- Start times come from the clocks of those who began the sagas, times of entries from the server's.
local CLOCKS_DIFFER = 86400000

-- The time from which on a stream is whole; 0 if nothing was ever removed from it.
local function whole_since(stream)
  if misfit(stream, 'stream') or kinds[stream] == 'none' then return 0 end
  local info, flat = {}, redis.call('XINFO', 'STREAM', stream)
  for at = 1, #flat, 2 do info[flat[at]] = flat[at + 1] end
  if info['entries-added'] == info['length'] then return 0 end
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  return tonumber(string.match(first and first[1] or info['last-generated-id'], '^%d+'))
end

local function begin()
  local since = 0
  for number = 4, #KEYS do since = math.max(since, whole_since(KEYS[number])) end
  redis.call('HSET', KEYS[1], 'wiping', string.format('%.0f', since))
end

-- Forget what was projected of some sagas; those that the streams do not tell whole keep their traces.
local function wipe(listed, since)
  for number = 1, #listed, 2 do
    local id, started = listed[number], tonumber(listed[number + 1])
    if since > 0 and started <= since + CLOCKS_DIFFER then
      redis.call('ZADD', KEYS[3], 0, id)
      redis.call('UNLINK', ARGV[2] .. id)
    else
      redis.call('UNLINK', ARGV[2] .. id, ARGV[3] .. id)
    end
  end
end

if ARGV[1] == 'begin' then begin() end
local since = redis.call('HGET', KEYS[1], 'wiping')
if not since then return -1 end
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  local index = string.match(field, '^index:(.*)$')
  if index then
    local listed = redis.call('ZRANGE', index, 0, tonumber(ARGV[4]) - 1, 'WITHSCORES')
    wipe(listed, tonumber(since))
    if #listed > 0 then
      redis.call('ZREMRANGEBYRANK', index, 0, #listed / 2 - 1)
      return #listed / 2
    end
  end
end
-- The version stays and grows, so that a tracker which slept through all of this is behind as well.
redis.call('UNLINK', KEYS[2])
local version = redis.call('HINCRBY', KEYS[1], 'version', 1)
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'version', version)
return -1
