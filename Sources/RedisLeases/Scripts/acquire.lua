-- Take the lock for this host, or a share of it, or stand in its queue. Asking again with the same attempt changes
-- nothing.
--
-- ARGV[11]  the mode
-- ARGV[12]  this ask's number, for the holder to repeat in its answer
-- ARGV[13]  1 when this is a try: the holders are to answer, and behind a foreign holder the try does not queue
-- ARGV[14]  the first attempt of this host under which it still has the lock; this attempt when it has none. Who waits on
--           a host behind those who hold the lock there has to stand in the queue, or others who come later would pass
-- ARGV[15], ARGV[16]  when this host took its place in the queue of an earlier epoch: the number of that epoch, and
--           microseconds by its clock. Both are left out where it had none
--
-- Returns {'granted', first token, token count, hosts in the queue}
--      or {'queued', another host that holds it, or '', ms until the first holder's lease ends, receivers of the
--         announcement, TIME in seconds, and its microseconds, and 1 where its place is not a new one at the end}
--      or {'foreign', PTTL}, and where it stands in the queue the same three
--      or {'conflict', mode, receivers}: others have it as something else; this host stands in the queue, and they are
--         asked whether they use it
--      or {'stale', attempt}: a later attempt of this host has the lock: this command came late and means nothing, or
--         this host has lost count of its attempts and has to ask under a later one
--      or {'other_epoch'}
if not is_open and not is_grace then return elsewhere() end
if other then return other end
local my_mode, ask, is_try, kept = ARGV[11], ARGV[12], ARGV[13], tonumber(ARGV[14])
local my_entry = '1;' .. me .. ':' .. attempt .. ':' .. lease .. ':' .. my_mode

-- Puts this host into the queue behind those who came before `mine`, a moment as digits, and ahead of those who came
-- after; who comes now stands at the end. Since when each stands is kept in a key of its own for as long as others may come
-- back: "1;", and for each the moment, a space, the entry and a line end. Who is not in it stays where he is: he has not
-- come back, or came when nobody did any more.
--
-- A moment is an epoch's number and the microseconds of the clock that this epoch had. So moments of one clock are
-- compared, and what was in an earlier epoch was before, whatever clocks show.
local function stand_since(mine, is_now, kept)
  local key, since = queue .. ':since', {}
  local told = redis.pcall('GET', key)
  told = string.match(type(told) == 'string' and told or '', '^1;(.*)$') or ''
  for moment, entry in string.gmatch(told, '(%d+) ([^\n]+)\n') do since[entry] = moment end
  local entries = redis.call('LRANGE', queue, 0, -1)
  local lines, stands_at, before, after = { mine .. ' ' .. my_entry .. '\n' }
  for i, entry in ipairs(entries) do
    local moment = since[entry]
    if entry == my_entry then
      stands_at = i
    elseif moment then
      if moment < mine then before = i else after = after or i end
      lines[#lines + 1] = moment .. ' ' .. entry .. '\n'
    end
  end
  redis.call('SET', key, '1;' .. table.concat(lines), 'PX', kept)
  if stands_at and (before or 0) < stands_at and stands_at < (after or stands_at + 1) then return end
  redis.call('LREM', queue, 0, my_entry)
  redis.call('RPUSH', queue, my_entry)
  local behind = is_now and #entries or before or after and after - 1 or #entries
  for i = behind + 1, #entries do
    if i ~= stands_at then
      redis.call('RPUSH', queue, entries[i])
      redis.call('LREM', queue, 1, entries[i])
    end
  end
end

local function moment_of(epoch, microseconds) return string.format('%016.0f%016.0f', epoch, microseconds) end

-- 1 where this host stood in the queue already, or told since when it did.
local is_known

local function stand_in_queue(ttl)
  local kept = 2 * math.max(ttl, tonumber(lease))
  local stands_at = waiting > 0 and redis.call('LPOS', queue, my_entry)
  is_known = (stands_at or ARGV[15]) and 1 or nil
  if stands_at and not ARGV[15] then
    -- Who comes back later needs it for as long as anybody stands there who is in it.
    keep(queue .. ':since', kept)
    return keep(queue, kept)
  end
  kept = math.max(kept, redis.call('PTTL', queue))
  if ARGV[15] then
    stand_since(moment_of(ARGV[15], ARGV[16]), false, kept)
  elseif is_grace then
    stand_since(moment_of(string.match(stands, '^1;(%d+)'), clock()[1] * 1000000 + clock()[2]), true, kept)
  else
    redis.call('RPUSH', queue, my_entry)
  end
  local reply = redis.pcall('PEXPIRE', queue, kept)
  if type(reply) == 'table' and reply.err then
    -- A queue without a TTL would stay for ever if nobody came back to it.
    if waiting == 0 then redis.call('LREM', queue, 0, my_entry) end
    redis.call('PEXPIRE', queue, kept)
  end
end

-- A name that is used as a lock cannot be a semaphore meanwhile, nor one of another capacity.
local function is_conflict()
  return mode and mode ~= my_mode and (string.sub(mode, 1, 1) == 'p' or string.sub(my_mode, 1, 1) == 'p')
end

-- Tells the holders that this host waits, at every ask: a message may have been lost with a holder's connection.
local function announce()
  if is_conflict() then is_try = '1' end
  local first, first_end, receivers = '', nil, 0
  for _, holder in ipairs(holders) do
    if holder.ends then first_end = math.min(first_end or holder.ends, holder.ends) end
    if holder.instance ~= me then
      if first == '' then first = holder.instance end
      local message = table.concat({ '1;contended', holder.attempt, ask, is_try, me, my_mode }, ' ') .. ';' .. name
      receivers = receivers + redis.call('PUBLISH', inbox .. holder.instance, message)
    end
  end
  local left = first_end and first_end - now_ms() or redis.call('PTTL', lock)
  -- It is free, and kept for the first of the queue, whose mode only a later release of sidelock knows.
  if not mode then left = 1000 end
  if is_conflict() then return { 'conflict', mode, receivers } end
  -- Redis' clock orders the waits of all hosts: see "Owners" in protocol/README.md.
  return { 'queued', first, left, receivers, clock()[1], clock()[2], is_known }
end

if mode == 'foreign' then
  -- This host looks again soon, however long the key may live, and so does every other one that waits.
  if is_try == '1' then return { 'foreign', redis.call('PTTL', lock) } end
  stand_in_queue(0)
  return { 'foreign', redis.call('PTTL', lock), clock()[1], clock()[2], is_known }
end

-- Who has the lock shows only when everybody has taken again what he had, so nobody is asked for it before. Nor does this
-- host get what stands here under its own attempt: it may be of an older data set, and others may have had the lock since.
if is_grace then
  stand_in_queue(tonumber(string.match(stands, '^1;[^;]*;g;[^;]*;%d+;(%d+)')) or 0)
  return { 'queued', '', lease, 0, clock()[1], clock()[2], is_known }
end

local others = {}
for _, holder in ipairs(holders) do
  if holder.instance ~= me then
    -- What a host has that is dead is over, and this is asked only where it is in the way.
    if fits(my_mode) or not is_dead(ARGV[9], holder.instance) then others[#others + 1] = holder end
  elseif holder.attempt == attempt then
    -- It may have stood in the queue in the grace: who waits under an attempt that has the lock would be given it once more.
    if waiting > 0 then redis.call('LREM', queue, 0, my_entry) end
    if mode == 'x' then
      redis.call('PEXPIRE', lock, lease)
    else
      holder.ends = now_ms() + tonumber(lease)
      redis.call('PEXPIRE', lock, lease)
      write_holders(lock, mode, holders, more)
    end
    return granted(holder)
  elseif string.sub(mode, 1, 1) == 'p' then
    -- A host may have several permits.
    others[#others + 1] = holder
  elseif tonumber(holder.attempt) > tonumber(attempt) then
    return { 'stale', holder.attempt }
  elseif tonumber(holder.attempt) >= kept then
    others[#others + 1] = holder
  end
end
-- What is left out was a dead host's, or an attempt that this host has given up, executed late.
local is_changed = #others < #holders
holders = others
if #holders == 0 then mode, more = nil, nil end

if waiting == 0 and fits(my_mode) then
  return granted(take(me, attempt, lease, my_mode, next_token()))
end

local left = 0
for _, holder in ipairs(holders) do
  left = math.max(left, holder.ends and holder.ends - now_ms() or redis.call('PTTL', lock))
end
stand_in_queue(left)
waiting = waiting + 1
-- Others have waited longer, and may get it now: it is free, or a holder's time is over.
local mine, anybody = pass_on(my_entry)
if mine then return granted(mine) end
if is_changed and not anybody then
  if #holders == 0 then
    -- Nobody who stands there can be given it. This host may have issued tokens of that block.
    if counter > 0 then count_to(counter) end
    redis.call('DEL', lock)
  else
    write_holders(lock, mode, holders, more)
  end
end
return announce()
