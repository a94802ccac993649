-- Take the lock for this host, or stand in its queue. Asking again with the same attempt changes nothing.
--
-- ARGV[9]   this ask's number, for the holder to repeat in its answer
-- ARGV[10]  1 when this is a try: the holder is to answer, and behind a foreign holder the try does not queue
--
-- Returns {'granted', first token, token count, hosts in the queue}
--      or {'queued', holder, its PTTL, receivers of the announcement}
--      or {'foreign', PTTL}
--      or {'stale'}: a later attempt of this host has the lock, so this command came late and means nothing.
local ask, is_try = ARGV[9], ARGV[10]

local function granted(first)
  return { 'granted', string.format('%.0f', first), token_count, redis.call('LLEN', queue) }
end

local function stand_in_queue(ttl)
  if not redis.call('LPOS', queue, my_entry) then redis.call('RPUSH', queue, my_entry) end
  keep_queue(2 * math.max(ttl, tonumber(lease)))
end

-- Tells the holder that this host waits. It is told at every ask, so that a message lost with the holder's connection
-- is made up for.
local function announce(holder, its_attempt, ttl)
  local message = table.concat({ 'contended', its_attempt, ask, is_try, me, name }, ' ')
  return { 'queued', holder, ttl, redis.call('PUBLISH', inbox .. holder, message) }
end

if value then
  local holder, its_attempt, token = parts(value)
  local ttl = redis.call('PTTL', lock)
  if not holder then
    -- This host looks again soon, however long the key may live, and so does every other one that waits.
    if is_try == '0' then stand_in_queue(0) end
    return { 'foreign', ttl }
  end
  if holder == me then
    if tonumber(its_attempt) > tonumber(attempt) then return { 'stale' } end
    if its_attempt == attempt then
      redis.call('PEXPIRE', lock, lease)
      return granted(token)
    end
    -- An attempt that this host has given up, executed late: it is of no use to anybody else.
    redis.call('LREM', queue, 0, my_entry)
    local first = next_token()
    take(me, attempt, lease, first)
    return granted(first)
  end
  stand_in_queue(ttl)
  return announce(holder, its_attempt, ttl)
end

if waiting == 0 then
  local first = next_token()
  take(me, attempt, lease, first)
  return granted(first)
end

-- The lock is free, but others have waited longer.
stand_in_queue(0)
local holder, its_lease, first = pass_on()
if first then return granted(first) end
local _, its_attempt = parts(redis.call('GET', lock))
return announce(holder, its_attempt, tonumber(its_lease))
