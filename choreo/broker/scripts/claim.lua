-- Take over deliveries whose worker has not renewed its lease.
--
-- KEYS  1 stream
-- ARGV  1 group, 2 consumer, 3 lease (ms), then entry ids
-- Returns {id, deliveries, fields} for each that was taken. XCLAIM itself looks again at how long a
-- delivery has been idle, so of two workers that try, one gets it.

local taken = {}
for number = 4, #ARGV do
  local id = ARGV[number]
  local claimed = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], id)
  if claimed[1] then
    local pending = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)
    taken[#taken + 1] = { id, pending[1][4], claimed[1][2] }
  end
end
return taken
