-- Consumer groups of a room; appended to functions.lua, one library with it.
-- A group's `state` hash: epoch, given (highest sequence handed out or missed), missed, delayed (jobs given back),
-- most (deliveries, kept for the bus). Its pending jobs stand in `due` (zset, sequence in 16 digits -> when it may
-- be handed out again) and `held` (hash, the same -> deliveries:time:consumer:reason; no consumer: given back).
-- Not a group of the stream itself: that has one idle time for all, so that finding the jobs that are due would
-- look at every pending one, and it would go with the stream when a room is trimmed to nothing or deleted.

local MEMBER = '%016.0f'
local CHUNK = 100

local function pack_job(deliveries, time_us, consumer, reason)
  return text(deliveries) .. ':' .. text(time_us) .. ':' .. consumer .. ':' .. reason
end

-- deliveries, time, consumer, reason
local function unpack_job(value)
  local deliveries, time_us, consumer, reason = string.match(value, '^(%d+):(%d+):([^:]*):(.*)$')
  return tonumber(deliveries), tonumber(time_us), consumer, reason
end

local function save_group(state, group)
  server.call('HSET', state, 'epoch', group.epoch, 'given', text(group.given), 'missed', text(group.missed),
    'delayed', text(group.delayed))
end

-- The group as a table, with room_epoch (false: no room) and last of its room; nil if there is none. `renewed`: the
-- room began anew, so that no pending job is left; read and claim write that down and tell what was missed.
local function load_group(meta, state, due)
  local kept = server.call('HMGET', state, 'epoch', 'given', 'missed', 'delayed', 'most')
  if not kept[1] then return nil end
  local room = server.call('HMGET', meta, 'epoch', 'last', 'base', 'prev')
  local group = {
    epoch = kept[1], given = tonumber(kept[2]), missed = tonumber(kept[3]), delayed = tonumber(kept[4]),
    most = tonumber(kept[5]), room_epoch = room[1], last = tonumber(room[2] or 0), missed_before = tonumber(kept[3]),
    renewed = room[1] and room[1] ~= kept[1],
  }
  if group.renewed and room[4] == kept[1] then -- the log goes on under another epoch, perhaps without its end
    group.renewed, group.moved, group.epoch = false, true, room[1]
    group.given = math.min(group.given, tonumber(room[3]))
  elseif group.renewed then
    group.epoch, group.given, group.delayed = room[1], 0, 0
    group.missed = group.missed + server.call('ZCARD', due)
  end
  return group
end

-- The group of read and claim; KEYS log, meta, state, due, held.
local function enter_group(keys)
  local group = load_group(keys[2], keys[3], keys[4])
  if group and group.renewed then
    server.call('DEL', keys[4], keys[5])
    save_group(keys[3], group)
  elseif group and group.moved then
    save_group(keys[3], group)
  end
  return group
end

local function no_group()
  return server.error_reply('NOGROUP there is no such consumer group')
end

-- Removes the members from the group's pending jobs; how many there were.
local function drop_jobs(due, held, members, first)
  local dropped = 0
  for from = first, #members, STEP do
    local upto = math.min(from + STEP - 1, #members)
    dropped = dropped + server.call('ZREM', due, unpack(members, from, upto))
    server.call('HDEL', held, unpack(members, from, upto))
  end
  return dropped
end

-- Puts members into the consumer's hands. `values`: of `held`, in the order of the members.
local function hold_jobs(due, held, members, values, due_us)
  local scores, fields = {}, {}
  for index, member in ipairs(members) do
    scores[2 * index - 1], scores[2 * index] = due_us, member
    fields[2 * index - 1], fields[2 * index] = member, values[index]
  end
  for from = 1, #scores, STEP do
    local upto = math.min(from + STEP - 1, #scores)
    server.call('ZADD', due, unpack(scores, from, upto))
    server.call('HSET', held, unpack(fields, from, upto))
  end
end

-- Hands pending jobs out again, those that `wanted(time)` accepts. Adds entry, deliveries, consumer and reason of
-- each to `jobs`, what has to be held to `members` and `values`; returns the bytes of their data.
local function hand_out_again(keys, group, candidates, order, wanted, jobs, members, values)
  local log, due, held = keys[1], keys[4], keys[5]
  local gone, size = {}, 0
  for _, member in ipairs(candidates) do
    local value = server.call('HGET', held, member)
    if size > order.max_bytes then break end
    if value then
      local deliveries, time_us, consumer, reason = unpack_job(value)
      if wanted(time_us) then
        if consumer == '' then group.delayed = group.delayed - 1 end
        local id = text(tonumber(member)) .. '-0'
        local entry = server.call('XRANGE', log, id, id)[1]
        if entry then
          deliveries = deliveries + 1
          jobs[#jobs + 1] = { entry, deliveries, consumer, reason }
          members[#members + 1] = member
          values[#values + 1] = pack_job(deliveries, order.now, order.consumer, '')
          size = size + #entry[2][8]
        else
          gone[#gone + 1] = member
        end
      end
    end
  end
  group.missed = group.missed + #gone
  drop_jobs(due, held, gone, 1)
  return size
end

-- Hands out up to `count` entries that the group was not given yet; returns them.
local function hand_out_new(keys, group, order, count, size, members, values)
  local fresh, value = {}, pack_job(1, order.now, order.consumer, '')
  while #fresh < count and size <= order.max_bytes do
    local asked = math.min(CHUNK, count - #fresh)
    local entries = server.call('XRANGE', keys[1], text(group.given + 1), '+', 'COUNT', asked)
    for _, entry in ipairs(entries) do
      if size > order.max_bytes then return fresh end
      local sequence = sequence_of(entry)
      group.missed = group.missed + sequence - group.given - 1
      group.given = sequence
      size = size + #entry[2][8]
      fresh[#fresh + 1] = entry
      members[#members + 1] = string.format(MEMBER, sequence)
      values[#values + 1] = value
    end
    if #entries < asked then
      group.missed = group.missed + group.last - group.given
      group.given = group.last
      break
    end
  end
  return fresh
end

-- KEYS meta, groups, log, state; ARGV epoch for a new room, start, most deliveries, name, most groups.
-- Returns 1 if the group was made, and the epoch of the room.
local function group_ensure(keys, args)
  local meta, groups, log, state = keys[1], keys[2], keys[3], keys[4]
  local room = server.call('HMGET', meta, 'epoch', 'last')
  local epoch, last, start = room[1] or args[1], tonumber(room[2] or 0), tonumber(args[2])
  if server.call('HGET', state, 'epoch') then return { 0, epoch } end
  -- The bus's own groups and those of clients are counted apart. The character behind . is /.
  local count = #server.call('ZRANGE', groups, '[arqonbus.', '(arqonbus/', 'BYLEX')
  if string.sub(args[4], 1, 9) ~= 'arqonbus.' then count = server.call('ZCARD', groups) - count end
  if count >= tonumber(args[5]) then
    return server.error_reply('TOOMANYGROUPS the room has as many consumer groups as it may')
  end
  if not room[1] then server.call('HSET', meta, 'epoch', epoch, 'last', 0, 'time', text(clock_us())) end
  local given = math.min(start, last)
  if start == 0 then
    local entry = first_from(log, 0)
    given = entry and sequence_of(entry) - 1 or last
  elseif start < 0 then
    given = last
  end
  save_group(state, { epoch = epoch, given = given, missed = 0, delayed = 0 })
  server.call('HSET', state, 'most', args[3])
  server.call('ZADD', groups, 0, args[4])
  return { 1, epoch }
end

-- KEYS log, meta, state, due, held; ARGV consumer, limit, lease us, max bytes, max pending.
-- Returns epoch, missed, most deliveries, jobs that came back, new entries, us until a job is due if there are none.
local function group_read(keys, args)
  local group = enter_group(keys)
  if not group then return no_group() end
  if not group.room_epoch then return { '', 0, group.most, {}, {}, 0 } end
  local limit, now = tonumber(args[2]), clock_us()
  local order = { consumer = args[1], max_bytes = tonumber(args[4]), now = now }
  local given, delayed = group.given, group.delayed
  local jobs, fresh, members, values, size = {}, {}, {}, {}, 0
  local pending = server.call('ZCARD', keys[4])
  if limit > 0 and pending > 0 then
    local candidates = server.call('ZRANGEBYSCORE', keys[4], '-inf', text(now), 'LIMIT', 0, limit)
    local all = function() return true end
    size = hand_out_again(keys, group, candidates, order, all, jobs, members, values)
  end
  if group.given < group.last then
    local count = math.min(limit - #jobs, tonumber(args[5]) - pending)
    fresh = hand_out_new(keys, group, order, count, size, members, values)
  end
  hold_jobs(keys[4], keys[5], members, values, text(now + tonumber(args[3])))
  local missed = group.missed - group.missed_before
  if group.given ~= given or group.delayed ~= delayed or missed > 0 then save_group(keys[3], group) end
  local due_in = 0
  if #members == 0 then
    local next_one = server.call('ZRANGE', keys[4], 0, 0, 'WITHSCORES')
    if next_one[1] then due_in = math.max(tonumber(next_one[2]) - now, 1) end
  end
  return { group.epoch, missed, group.most, jobs, fresh, due_in }
end

-- KEYS as of group_read; ARGV epoch, consumer, idle us, lease us, members. Returns as group_read.
local function group_claim(keys, args)
  local group = enter_group(keys)
  if not group then return no_group() end
  local now, idle_us = clock_us(), tonumber(args[3])
  local order = { consumer = args[2], max_bytes = math.huge, now = now }
  local jobs, members, values, candidates = {}, {}, {}, {}
  if group.room_epoch and args[1] == group.epoch then
    for at = 5, #args do candidates[at - 4] = args[at] end
  end
  local idle = function(time_us) return now - time_us >= idle_us end
  hand_out_again(keys, group, candidates, order, idle, jobs, members, values)
  hold_jobs(keys[4], keys[5], members, values, text(now + tonumber(args[4])))
  save_group(keys[3], group)
  return { group.epoch, group.missed - group.missed_before, group.most, jobs, {}, 0 }
end

-- KEYS state, due, held; ARGV epoch, members. How many were pending.
local function group_ack(keys, args)
  local kept = server.call('HMGET', keys[1], 'epoch', 'delayed')
  if not kept[1] then return no_group() end
  if kept[1] ~= args[1] then return 0 end
  local delayed = tonumber(kept[2])
  if delayed > 0 then
    local left = delayed
    for at = 2, #args do
      local value = server.call('HGET', keys[3], args[at])
      -- The same job may be named twice.
      if value and select(3, unpack_job(value)) == '' then
        left = left - server.call('ZREM', keys[2], args[at])
        server.call('HDEL', keys[3], args[at])
      end
    end
    server.call('HSET', keys[1], 'delayed', text(left))
    return delayed - left + drop_jobs(keys[2], keys[3], args, 2)
  end
  return drop_jobs(keys[2], keys[3], args, 2)
end

-- KEYS state, due, held; ARGV epoch, consumer, member, delay us, reason. Its deliveries, 0 if it was not held.
local function group_nack(keys, args)
  local kept = server.call('HMGET', keys[1], 'epoch', 'delayed')
  if not kept[1] then return no_group() end
  local value = kept[1] == args[1] and server.call('HGET', keys[3], args[3])
  if not value then return 0 end
  local deliveries, time_us, consumer = unpack_job(value)
  if consumer ~= args[2] then return 0 end
  server.call('HSET', keys[3], args[3], pack_job(deliveries, time_us, '', args[5]))
  server.call('ZADD', keys[2], text(clock_us() + tonumber(args[4])), args[3])
  server.call('HSET', keys[1], 'delayed', text(tonumber(kept[2]) + 1))
  return deliveries
end

-- KEYS state, due, held; ARGV epoch, consumer, lease us, members. Those that the consumer holds.
local function group_extend(keys, args)
  local epoch = server.call('HGET', keys[1], 'epoch')
  if not epoch then return no_group() end
  if epoch ~= args[1] then return {} end
  local due_us, extended = text(clock_us() + tonumber(args[3])), {}
  for at = 4, #args do
    local value = server.call('HGET', keys[3], args[at])
    if value and select(3, unpack_job(value)) == args[2] then
      server.call('ZADD', keys[2], due_us, args[at])
      extended[#extended + 1] = args[at]
    end
  end
  return extended
end

-- KEYS meta, state, due, held; ARGV due us and member to go on behind, limit. Member, due us, value of each.
local function group_pending(keys, args)
  local group = load_group(keys[1], keys[2], keys[3])
  if not group then return no_group() end
  if group.renewed then return {} end
  local after, limit, offset, found = tonumber(args[1]), tonumber(args[3]), 0, {}
  while #found < limit * 3 do
    local some = server.call('ZRANGEBYSCORE', keys[3], args[1], '+inf', 'WITHSCORES', 'LIMIT', offset, CHUNK)
    for at = 1, #some, 2 do
      local due_us = tonumber(some[at + 1])
      if #found < limit * 3 and (due_us > after or some[at] > args[2]) then
        found[#found + 1] = some[at]
        found[#found + 1] = due_us
        found[#found + 1] = server.call('HGET', keys[4], some[at])
      end
    end
    if #some < CHUNK * 2 then break end
    offset = offset + CHUNK
  end
  return found
end

-- KEYS log, meta, state, due. Returns epoch, given, lag, pending, delayed, missed, most deliveries.
local function group_state(keys)
  local group = load_group(keys[2], keys[3], keys[4])
  if not group then return no_group() end
  local lag = 0
  if group.room_epoch then
    local entry = first_from(keys[1], 0)
    lag = math.max(group.last - math.max(group.given, entry and sequence_of(entry) - 1 or group.last), 0)
  end
  local jobs = group.renewed and 0 or server.call('ZCARD', keys[4])
  return { group.epoch, group.given, lag, jobs - group.delayed, group.delayed, group.missed, group.most }
end

-- KEYS groups, state, due, held; ARGV name. 1 if there was such a group.
local function group_delete(keys, args)
  server.call('ZREM', keys[1], args[1])
  server.call('DEL', keys[3], keys[4])
  return server.call('DEL', keys[2])
end

register('group_ensure', group_ensure, {})
register('group_read', group_read, {})
register('group_claim', group_claim, {})
register('group_ack', group_ack, { 'allow-oom' })
register('group_nack', group_nack, { 'allow-oom' })
register('group_extend', group_extend, { 'allow-oom' })
register('group_pending', group_pending, { 'no-writes' })
register('group_state', group_state, { 'no-writes' })
register('group_delete', group_delete, { 'allow-oom' })
