-- Renew the lease of deliveries that this worker still holds; never take back one that it lost.
--
-- KEYS  1 stream
-- ARGV  1 group, 2 consumer, then entry ids
-- Returns the ids that are not this worker's any more.
--
-- An entry that was deleted meanwhile is left alone: XCLAIM would take it out of the pending list, the worker
-- could not commit what it has done, and nobody would learn that anything is lost.

local lost = {}
for number = 3, #ARGV do
  local id = ARGV[number]
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)
  if pending[1] and pending[1][2] == ARGV[2] then
    if redis.call('XRANGE', KEYS[1], id, id)[1] then
      redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'JUSTID')
    end
  else
    lost[#lost + 1] = id
  end
end
return lost
