-- Joins: steps that wait until several events of their saga are there.

local function part_field(prefix, d, wanted)
  return prefix .. d.route.line .. wanted
end

-- What the work keeps for a join, or false.
local function kept(saga, field)
  return not saga.blank and redis.call('HGET', saga.work, field)
end

-- The parts of a join that fired for this event, in the order of its types, or nil.
local function fired(d, saga)
  local parts = {}
  for number, wanted in ipairs(d.wants) do
    local part = kept(saga, 'x:' .. d.line .. ':' .. wanted)
    if not part then return nil end
    parts[number] = part
  end
  return parts
end

-- The parts of a join when this event completes it, and their ledgers; or nil and what is missing.
local function complete(d, saga)
  local parts, ledgers, missing = {}, {}, {}
  for number, wanted in ipairs(d.wants) do
    if wanted == d.route.type then
      parts[number], ledgers[number] = d.part, d.parents
    else
      parts[number] = kept(saga, part_field('j:', d, wanted))
      ledgers[number] = kept(saga, part_field('k:', d, wanted)) or ''
      if not parts[number] then missing[#missing + 1] = wanted end
    end
  end
  if #missing > 0 then return nil, missing end
  return parts, ledgers
end

local function clear_join(d, saga)
  for _, wanted in ipairs(d.joined) do
    add(saga, 'drops', 'x:' .. d.line .. ':' .. wanted)
  end
end

-- Keep the event for the join, or fire it. Returns an answer if the delivery is settled by that.
local function gather(d, saga)
  local parts = fired(d, saga)
  if parts then
    d.parts = parts
    return nil
  end
  local ledgers
  parts, ledgers = complete(d, saga)
  if not parts then
    put(saga, 'sets', part_field('j:', d, d.route.type), d.part)
    put(saga, 'sets', part_field('k:', d, d.route.type), d.parents)
    fact(d, saga, 'waiting', { note = table.concat(ledgers, ' ') })
    return finish(d, saga, 'w')
  end
  for number, wanted in ipairs(d.wants) do
    put(saga, 'sets', 'x:' .. d.line .. ':' .. wanted, parts[number])
    add(saga, 'drops', part_field('j:', d, wanted))
    add(saga, 'drops', part_field('k:', d, wanted))
  end
  d.parts, d.parents = parts, table.concat(merge(ledgers), ' ')
  return nil
end
