-- uses: saga
--
-- Take over deliveries whose worker has not renewed its lease; or take in hand what this worker was given
-- without learning of it, because the answer was lost.
--
-- KEYS  1 stream, 2 dead letters, 3 their states
-- ARGV  1 group, 2 consumer, 3 lease (ms), '' for one's own, 4 now (ms), 5 a prefix for the ids of letters,
--       then entry ids
-- Returns {id, deliveries, fields} for each that was taken; deliveries is 0 for an entry that was
-- deleted behind the group's back, which becomes a dead letter: what it said is lost.
--
-- XCLAIM itself looks again at how long a delivery has been idle: of two workers that try, one gets it.
-- One's own are not counted as delivered again: nobody died of them.

local function mourn(id)
  local letter = ARGV[5] .. id
  if misfit(KEYS[2], 'stream') or misfit(KEYS[3], 'hash') then return end
  if redis.call('HSETNX', KEYS[3], letter, 'open') == 1 then
    redis.call('XADD', KEYS[2], '*', 'letter', letter, 'reason', 'entry-lost', 'time', ARGV[4],
      'participant', ARGV[1], 'stream', KEYS[1], 'entry', id)
  end
  redis.call('XACK', KEYS[1], ARGV[1], id)
end

local function take_over(id)
  -- It may have been acknowledged since it was looked at, and trimmed: then nothing is lost.
  if not redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)[1] then return end
  local claimed = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], id)
  if claimed[1] then return claimed[1][2] end
  if not redis.call('XRANGE', KEYS[1], id, id)[1] then return {} end
end

local function take_in_hand(id)
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)[1]
  if not pending or pending[2] ~= ARGV[2] then return end
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  if not entry then return {} end
  redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'JUSTID')
  return entry[2]
end

local taken = {}
for number = 6, #ARGV do
  local id = ARGV[number]
  local fields = (ARGV[3] == '' and take_in_hand or take_over)(id)
  if fields and fields[1] then
    local pending = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)
    taken[#taken + 1] = { id, pending[1][4], fields }
  elseif fields then
    mourn(id)
    taken[#taken + 1] = { id, 0, {} }
  end
end
return taken
