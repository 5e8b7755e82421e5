-- Take exactly so many new entries at most, for a worker with fewer free slots than streams: XREADGROUP
-- counts per stream.
--
-- KEYS  streams, those that come first being served first
-- ARGV  1 group, 2 consumer, 3 how many entries at most
-- Returns what was taken, as XREADGROUP does; if nothing was, {stream, id of its last entry} for each,
-- to wait behind; and a key that is no stream, '' if all are.

local left = tonumber(ARGV[3])
local taken, ends, obstacle = {}, {}, ''

local function kind_of(key)
  local kind = redis.call('TYPE', key)
  return type(kind) == 'table' and kind.ok or kind
end

for number, stream in ipairs(KEYS) do
  local kind = kind_of(stream)
  if kind ~= 'stream' and kind ~= 'none' then
    obstacle = stream
  elseif left > 0 then
    local share = math.ceil(left / (#KEYS - number + 1))
    local found = redis.pcall('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', share, 'STREAMS', stream, '>')
    if found and found.err then
      -- What was taken from others is this consumer's already, and must not be lost for one's sake.
      if #taken == 0 then return found end
      break
    end
    if found and found[1] then
      taken[#taken + 1] = found[1]
      left = left - #found[1][2]
    end
    local last = #taken == 0 and redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
    ends[#ends + 1] = { stream, last and last[1] or '0-0' }
  end
end
if #taken > 0 then ends = {} end
return { taken, ends, obstacle }
