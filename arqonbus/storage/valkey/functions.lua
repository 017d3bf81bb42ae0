#!lua name=arqonbus
-- What the bus does in Valkey atomically. One library; VERSION grows with every change, and a node only ever
-- replaces an older one, so a function must go on serving the nodes of the release before.
-- Keys of a call share one hash tag. A room's `meta` hash: epoch, last (sequence), time (of the last append),
-- oldest (no held entry is older), run (of the server under which the room was last checked for a lost tail),
-- base (entries up to it are of earlier epochs) and prev (the epoch before). Its `log` stream: id <sequence>-0, fields t(ime) i(d) c(hannel) d(ata).
local VERSION = 5

-- unpack() has a limit of some 8000 values; commands with many arguments go in steps below it.
local STEP = 1000

local function text(number)
  return string.format('%.0f', number)
end

local function clock_us()
  local now = server.call('TIME')
  return tonumber(now[1]) * 1000000 + tonumber(now[2])
end

local function sequence_of(entry)
  return tonumber(string.match(entry[1], '^%d+'))
end

local function time_of(entry)
  return tonumber(entry[2][2])
end

local function first_from(log, sequence)
  return server.call('XRANGE', log, text(sequence), '+', 'COUNT', 1)[1]
end

-- The lowest held sequence whose time is at least time_us; last + 1 if there is none.
local function seek(log, last, time_us)
  local entry = first_from(log, 0)
  local low, high = entry and sequence_of(entry) or last + 1, last + 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    entry = first_from(log, middle)
    if entry and time_of(entry) < time_us then
      low = sequence_of(entry) + 1
    else
      high = middle
    end
  end
  entry = first_from(log, low)
  return entry and sequence_of(entry) or last + 1
end

local function id_bucket(ids, time_us, window_us, back)
  return ids .. ':' .. text(math.floor(time_us / window_us) - back)
end

-- Sequence by id for those of the wanted ids that the room remembers.
local function known_ids(buckets, wanted)
  local known = {}
  for _, bucket in ipairs(buckets) do
    for from = 1, #wanted, STEP do
      local upto = math.min(from + STEP - 1, #wanted)
      local found = server.call('HMGET', bucket, unpack(wanted, from, upto))
      for index, sequence in ipairs(found) do
        if sequence then known[wanted[from + index - 1]] = tonumber(sequence) end
      end
    end
  end
  return known
end

local function remember_ids(bucket, pairs_, expire_ms)
  for from = 1, #pairs_, STEP do
    server.call('HSET', bucket, unpack(pairs_, from, math.min(from + STEP - 1, #pairs_)))
  end
  server.call('PEXPIREAT', bucket, text(expire_ms), 'NX')
end

-- Trims the log to what is kept, and returns the new `oldest`.
local function trim(log, last, oldest, now, most, age_us)
  if most < 0 then
    server.call('DEL', log)
    return now
  end
  if most > 0 then server.call('XTRIM', log, 'MAXLEN', '=', text(most)) end
  if age_us > 0 and oldest < now - age_us then
    server.call('XTRIM', log, 'MINID', '=', text(seek(log, last, now - age_us)))
    local entry = first_from(log, 0)
    return entry and time_of(entry) or now
  end
  return oldest
end

-- A server that began anew may have lost the end of a room: nothing is done to it before somebody has looked.
local function unchecked()
  return server.error_reply('UNCHECKED the room was not looked at since this server began')
end

-- KEYS log, meta, ids, live channel
-- ARGV writer (8 bytes), batch number, epoch for a new room, max messages, max age us, dedup window us,
--      then id, channel, data of each item
-- Returns epoch, time us, first new sequence, count of new ones, then index and sequence of each duplicate.
local function append(keys, args, run)
  local log, meta, ids, live = keys[1], keys[2], keys[3], keys[4]
  local window_us = tonumber(args[6])
  local held = server.call('HMGET', meta, 'epoch', 'last', 'time', 'oldest', 'run')
  if run and held[1] and held[5] ~= run then return unchecked() end
  local epoch, last = held[1] or args[3], tonumber(held[2] or 0)
  local now = math.max(clock_us(), tonumber(held[3] or 0))
  local oldest = tonumber(held[4] or 0)

  local wanted = {}
  for at = 7, #args, 3 do wanted[#wanted + 1] = args[at] end
  local bucket = id_bucket(ids, now, window_us, 0)
  local known = known_ids({ id_bucket(ids, now, window_us, 1), bucket }, wanted)

  local stamp, first = text(now), last + 1
  local reply, remembered, frames, fresh = { epoch, now, first, 0 }, {}, { '' }, {}
  for index, id in ipairs(wanted) do
    if known[id] then
      reply[#reply + 1] = index - 1
      reply[#reply + 1] = known[id]
    else
      last = last + 1
      known[id] = last
      fresh[#fresh + 1] = index
      remembered[#remembered + 1] = id
      remembered[#remembered + 1] = text(last)
    end
  end
  reply[4] = #fresh
  -- Before the entries: should one fail, the numbers given so far are spent and never given again.
  server.call('HSET', meta, 'epoch', epoch, 'last', text(last), 'time', stamp)
  if run and not held[1] then server.call('HSET', meta, 'run', run) end

  local most, age_us = tonumber(args[4]), tonumber(args[5])
  for offset, index in ipairs(fresh) do
    local at = 4 + index * 3
    local id, channel, data = args[at], args[at + 1], args[at + 2]
    if most >= 0 then
      local entry_id = text(first + offset - 1) .. '-0'
      server.call('XADD', log, entry_id, 't', stamp, 'i', id, 'c', channel, 'd', data)
    end
    frames[#frames + 1] = struct.pack('>I4I4I4', #id, #channel, #data)
    frames[#frames + 1] = id
    frames[#frames + 1] = channel
    frames[#frames + 1] = data
  end

  local left = trim(log, last, oldest, now, most, age_us)
  if left ~= oldest then server.call('HSET', meta, 'oldest', text(left)) end
  if #fresh > 0 then
    local expire_ms = (math.floor(now / window_us) + 2) * window_us / 1000
    remember_ids(bucket, remembered, expire_ms)
    frames[1] = 'E' .. args[1] .. struct.pack('>I8I8I8I4', tonumber(args[2]), first, now, #fresh) .. epoch
    server.call('SPUBLISH', live, table.concat(frames))
  end
  return reply
end

-- As append, with the run of the server, which the caller believes to speak to, as the last argument.
local function append_checked(keys, args)
  local run = args[#args]
  args[#args] = nil
  return append(keys, args, run)
end

-- As append_checked, for a room with a durable history: one that is not there may have been lost, too.
local function append_kept(keys, args)
  if server.call('EXISTS', keys[2]) == 0 then return unchecked() end
  return append_checked(keys, args)
end

-- Puts entries back that the server lost, behind those that it has; a room that is not there begins. The room stays
-- as unchecked as it is. KEYS log, meta, ids. ARGV epoch, last and run that the caller has seen ('', 0 and '' for no
-- room), the epoch that it is in, dedup window us, then sequence, time us, id, channel, data of each entry, ascending.
-- 0 if the room is another one by now.
local function refill(keys, args)
  local held = server.call('HMGET', keys[2], 'epoch', 'last', 'run', 'time')
  if (held[1] or '') ~= args[1] or (held[2] or '0') ~= args[2] or (held[3] or '') ~= args[3] then return 0 end
  local last, time_us, remembered = args[2], held[4] or '0', {}
  for at = 6, #args, 5 do
    last, time_us = args[at], args[at + 1]
    server.call('XADD', keys[1], last .. '-0', 't', time_us, 'i', args[at + 2], 'c', args[at + 3], 'd', args[at + 4])
    remembered[#remembered + 1] = args[at + 2]
    remembered[#remembered + 1] = last
  end
  server.call('HSET', keys[2], 'epoch', args[4], 'last', last, 'time', time_us)
  local window_us, now = tonumber(args[5]), clock_us()
  if #remembered > 0 and tonumber(time_us) > now - window_us then
    remember_ids(id_bucket(keys[3], now, window_us, 0), remembered,
      (math.floor(now / window_us) + 2) * window_us / 1000)
  end
  return 1
end

-- KEYS log, meta. ARGV run, then epoch, last and run that the caller has seen, and the epoch to begin, or '' to
-- go on with the one that is. Nothing is changed if the room is another one by now. Returns epoch and run.
local function renew(keys, args)
  local held = server.call('HMGET', keys[2], 'epoch', 'last', 'run')
  if held[1] == args[2] and held[2] == args[3] and (held[3] or '') == args[4] then
    if args[5] ~= '' then server.call('HSET', keys[2], 'epoch', args[5], 'prev', held[1], 'base', held[2]) end
    server.call('HSET', keys[2], 'run', args[1])
  end
  return server.call('HMGET', keys[2], 'epoch', 'run')
end

-- KEYS generation. ARGV which server it is and whom it took over from, and a new name. The name of the time since
-- then, as it stands in the data: a server that was primary before another one was is in a new time, although it
-- never ended.
local function generation(keys, args)
  local held = server.call('HMGET', keys[1], 'run', 'name')
  if held[1] == args[1] then return held[2] end
  server.call('HSET', keys[1], 'run', args[1], 'name', args[2])
  return args[2]
end

-- epoch, first, last of a room; an empty epoch for one never written to.
local function head_of(log, meta)
  local held = server.call('HMGET', meta, 'epoch', 'last', 'run', 'base')
  if not held[1] then return { '', 0, 0, 0 } end
  local last = tonumber(held[2])
  local entry = first_from(log, 0)
  return { held[1], entry and sequence_of(entry) or last + 1, last, tonumber(held[4] or 0) }, held[3]
end

-- For nodes of the release before: without base.
local function short_head(log, meta)
  local found = head_of(log, meta)
  found[4] = nil
  return found
end

local function head(keys)
  return short_head(keys[1], keys[2])
end

-- ARGV run. As head, with base.
local function head_checked(keys, args)
  local found, run = head_of(keys[1], keys[2])
  if run ~= args[1] and found[1] ~= '' then return unchecked() end
  return found
end

-- ARGV lowest and highest sequence, limit, run.
local function read_checked(keys, args)
  local found, run = head_of(keys[1], keys[2])
  if run ~= args[4] and found[1] ~= '' then return unchecked() end
  return { found, server.call('XRANGE', keys[1], args[1], args[2], 'COUNT', args[3]) }
end

local function read_back_checked(keys, args)
  local found, run = head_of(keys[1], keys[2])
  if run ~= args[4] and found[1] ~= '' then return unchecked() end
  return { found, server.call('XREVRANGE', keys[1], args[2], args[1], 'COUNT', args[3]) }
end

-- ARGV lowest and highest sequence, both included, and limit.
local function read(keys, args)
  return { short_head(keys[1], keys[2]), server.call('XRANGE', keys[1], args[1], args[2], 'COUNT', args[3]) }
end

local function read_back(keys, args)
  return { short_head(keys[1], keys[2]), server.call('XREVRANGE', keys[1], args[2], args[1], 'COUNT', args[3]) }
end

local function seek_time(keys, args)
  return seek(keys[1], tonumber(server.call('HGET', keys[2], 'last') or 0), tonumber(args[1]))
end

-- KEYS log, meta, ids; ARGV dedup window us. 1 if the room had been written to.
local function delete(keys, args)
  local time_us, window_us = tonumber(server.call('HGET', keys[2], 'time') or 0), tonumber(args[1])
  server.call('DEL', keys[1], id_bucket(keys[3], time_us, window_us, 0), id_bucket(keys[3], time_us, window_us, 1))
  return server.call('DEL', keys[2])
end

-- Presence of a room. KEYS expiry (zset client -> ms), names (zset, all 0, for order by name), info (hash).
-- ARGV time to live in ms, then client and info of each member.
local function enter(keys, args)
  local ttl_ms = tonumber(args[1])
  local expiry_ms = text(math.floor(clock_us() / 1000) + ttl_ms)
  for at = 2, #args, 2 do
    server.call('ZADD', keys[1], expiry_ms, args[at])
    server.call('ZADD', keys[2], 0, args[at])
    server.call('HSET', keys[3], args[at], args[at + 1])
  end
  for _, key in ipairs(keys) do server.call('PEXPIRE', key, text(ttl_ms * 4)) end
  return 1
end

local function leave(keys, args)
  server.call('ZREM', keys[1], args[1])
  server.call('ZREM', keys[2], args[1])
  return server.call('HDEL', keys[3], args[1])
end

-- ARGV limit. Returns client, info, client, info ...; forgets those whose time is over.
local function present(keys, args)
  local now_ms = text(math.floor(clock_us() / 1000))
  local gone = server.call('ZRANGEBYSCORE', keys[1], '-inf', now_ms)
  for _, client in ipairs(gone) do leave(keys, { client }) end
  local members = {}
  for _, client in ipairs(server.call('ZRANGE', keys[2], '-', '+', 'BYLEX', 'LIMIT', 0, args[1])) do
    members[#members + 1] = client
    members[#members + 1] = server.call('HGET', keys[3], client) or ''
  end
  return members
end

local function version()
  return VERSION
end

local function register(name, callback, flags)
  server.register_function({ function_name = 'arqonbus_' .. name, callback = callback, flags = flags })
end

register('append', function(keys, args) return append(keys, args) end, {})
register('append_checked', append_checked, {})
register('append_kept', append_kept, {})
register('refill', refill, {})
register('renew', renew, {})
register('generation', generation, { 'allow-oom' })
register('head_checked', head_checked, { 'no-writes' })
register('read_checked', read_checked, { 'no-writes' })
register('read_back_checked', read_back_checked, { 'no-writes' })
register('head', head, { 'no-writes' })
register('read', read, { 'no-writes' })
register('read_back', read_back, { 'no-writes' })
register('seek', seek_time, { 'no-writes' })
register('delete', delete, { 'allow-oom' })
register('enter', enter, {})
register('leave', leave, { 'allow-oom' })
register('present', present, { 'allow-oom' })
register('version', version, { 'no-writes' })
