-- Renew the lease of deliveries that this worker still holds; never take back one that it lost.
--
-- KEYS  1 stream
-- ARGV  1 group, 2 consumer, then entry ids
-- Returns the ids that are not this worker's any more.

local lost = {}
for number = 3, #ARGV do
  local id = ARGV[number]
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)
  if pending[1] and pending[1][2] == ARGV[2] then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'JUSTID')
  else
    lost[#lost + 1] = id
  end
end
return lost
