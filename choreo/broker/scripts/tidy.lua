-- Remove consumers of workers that are gone and left nothing behind. A worker that was only idle for so
-- long comes back with its next read.
--
-- KEYS  1 stream
-- ARGV  1 group, 2 consumer that asks, 3 idle for longer than (ms), 4 how many at most
-- Returns how many were removed. One with pending deliveries never is: XGROUP DELCONSUMER would destroy
-- them. Between this look and the removal nothing can be delivered, for a script runs alone.

local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
if consumers.err then return 0 end
local most, removed = tonumber(ARGV[4]), 0
for _, flat in ipairs(consumers) do
  local consumer = {}
  for number = 1, #flat, 2 do consumer[flat[number]] = flat[number + 1] end
  local gone = consumer.pending == 0 and consumer.idle > tonumber(ARGV[3])
  if gone and consumer.name ~= ARGV[2] and removed < most then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
    removed = removed + 1
  end
end
return removed
