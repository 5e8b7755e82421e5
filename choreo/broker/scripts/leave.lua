-- Hand over what a leaving worker still holds, then remove it from the group if it holds nothing.
--
-- KEYS  1 stream
-- ARGV  1 group, 2 consumer, 3 idle time to pretend (ms), so that others may claim at once
-- Returns how many deliveries it leaves behind. A consumer with pending deliveries is never removed:
-- XGROUP DELCONSUMER would destroy them.

local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], '-', '+', 1000, ARGV[2])
if pending.err then return 0 end
for _, row in ipairs(pending) do
  -- XCLAIM takes an entry that was deleted out of the pending list. Whoever takes it over must find it there.
  if redis.call('XRANGE', KEYS[1], row[1], row[1])[1] then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, row[1], 'IDLE', ARGV[3], 'JUSTID')
  end
end
if #pending == 0 then redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2]) end
return #pending
