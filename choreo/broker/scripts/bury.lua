-- uses: saga
--
-- Delete dead letters that are settled.
--
-- KEYS  1 dead letters, 2 their states
-- ARGV  for each letter: id, the state that it must still be in, its entry ('' if that is gone)
-- Returns how many went.

if misfit(KEYS[1], 'stream') or misfit(KEYS[2], 'hash') then return 0 end
local gone = 0
for at = 1, #ARGV, 3 do
  local id, state, entry = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  if redis.call('HGET', KEYS[2], id) == state then
    redis.call('HDEL', KEYS[2], id)
    if entry ~= '' then redis.call('XDEL', KEYS[1], entry) end
    gone = gone + 1
  end
end
return gone
