-- Delete a chunk of the tracker's projections of one partition, so that they are built anew.
--
-- KEYS  1 progress (hash), 2 deadlines
-- ARGV  1 'begin' or 'go on', 2 prefix of views, 3 prefix of traces, 4 how many sagas at most
-- Returns how many sagas went; -1 when nothing is left (or somebody else has finished the work), which
-- sets the tracker back to the beginning of every stream.
--
-- While `wiping` is set no tracker writes; whoever finds it set (this process may be killed) goes on.
-- The keys of sagas follow from the index that names them, all with the tag of KEYS[1].

if ARGV[1] == 'begin' then redis.call('HSET', KEYS[1], 'wiping', '1') end
if redis.call('HEXISTS', KEYS[1], 'wiping') == 0 then return -1 end
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  local index = string.match(field, '^index:(.*)$')
  if index then
    local ids = redis.call('ZRANGE', index, 0, tonumber(ARGV[4]) - 1)
    for _, id in ipairs(ids) do redis.call('UNLINK', ARGV[2] .. id, ARGV[3] .. id) end
    if #ids > 0 then
      redis.call('ZREMRANGEBYRANK', index, 0, #ids - 1)
      return #ids
    end
  end
end
-- The version stays and grows, so that a tracker which slept through all of this is behind as well.
redis.call('UNLINK', KEYS[2])
local version = redis.call('HINCRBY', KEYS[1], 'version', 1)
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'version', version)
return -1
