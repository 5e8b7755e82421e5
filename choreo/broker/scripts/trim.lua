-- uses: saga
--
-- Trim streams of one partition: what every group has done with, if it is older than it must be kept.
--
-- KEYS  1 the tracker's progress (hash), then the streams
-- ARGV  1 how many entries of a stream at most, about; then for each stream: what is older (ms) may go,
--       and '1' if the tracker projects the stream, '' if not
-- Returns how many entries went; 1 if there may be more to trim at once, else 0; and the first id that
-- any of the streams still holds, '' if all are empty.
--
-- What a group has not read or not acknowledged stays, however old it is; so does what the tracker has
-- not projected. A clock that is wrong makes streams longer, never shorter than what groups need. Only
-- ids that the server itself gave are compared with each other. XTRIM needs no memory: it works on a
-- server that is full, and lets it recover.

local MAX_SEQUENCE_DIGITS = 15 -- beyond, numbers in Lua are not exact

local function less(one, other)
  if #one ~= #other then return #one < #other end
  return one < other
end

local function before(one, other)
  local ms, seq = string.match(one, '^(%d+)-(%d+)$')
  local other_ms, other_seq = string.match(other, '^(%d+)-(%d+)$')
  if ms ~= other_ms then return less(ms, other_ms) end
  return less(seq, other_seq)
end

-- The id behind this one; or this one, which only keeps an entry more.
local function following(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  if #seq > MAX_SEQUENCE_DIGITS then return id end
  return ms .. '-' .. string.format('%.0f', tonumber(seq) + 1)
end

-- The first id that a group still needs.
local function needed(stream, flat)
  local group = {}
  for at = 1, #flat, 2 do group[flat[at]] = flat[at + 1] end
  local pending = redis.call('XPENDING', stream, group['name'], '-', '+', 1)
  if pending[1] then return pending[1][1] end
  return following(group['last-delivered-id'])
end

-- The first id that must stay.
local function bound(stream, time, projected)
  local first = time .. '-0'
  local function stay(id)
    if before(id, first) then first = id end
  end
  if projected then
    local at = redis.call('HGET', KEYS[1], 'at:' .. stream)
    if not at then return '0-0' end
    stay(following(at))
  end
  local groups = redis.call('XINFO', 'GROUPS', stream)
  -- Somebody deleted the group of an inbox: nobody knows what of it was handled.
  if not projected and not groups[1] then return '0-0' end
  for _, group in ipairs(groups) do stay(needed(stream, group)) end
  return first
end

-- Whole nodes first, for they cost little; the rest exactly, when it is no more than about a node.
local function trim(stream, first)
  local most = tonumber(ARGV[1])
  local gone = redis.call('XTRIM', stream, 'MINID', '~', first, 'LIMIT', most)
  if gone * 2 >= most then return gone, true end
  return gone + redis.call('XTRIM', stream, 'MINID', first), false
end

if misfit(KEYS[1], 'hash') or redis.call('HEXISTS', KEYS[1], 'wiping') == 1 then return { 0, 0, '0-0' } end
local removed, more, horizon = 0, 0, nil
for number = 2, #KEYS do
  local stream, time, projected = KEYS[number], ARGV[number * 2 - 2], ARGV[number * 2 - 1] ~= ''
  if misfit(stream, 'stream') then
    horizon = '0-0' -- nobody knows what it would hold
  elseif kinds[stream] ~= 'none' then
    local gone, unfinished = trim(stream, bound(stream, time, projected))
    removed = removed + gone
    if unfinished then more = 1 end
    local left = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
    if left and (not horizon or before(left[1], horizon)) then horizon = left[1] end
  end
end
return { removed, more, horizon or '' }
