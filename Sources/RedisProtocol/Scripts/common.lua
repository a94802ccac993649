-- What every script of a lock shares; it is put before each of acquire.lua and release.lua.
--
-- KEYS[1]  the lock: a plain string, there if and only if somebody holds it, always with a TTL.
--          A sidelock host writes "<host>/<instance>:<attempt>:<first token>"; anything else is a foreign holder.
-- KEYS[2]  the queue: a list of "<host>/<instance>:<attempt>:<lease ms>", the longest waiting first.
-- KEYS[3]  the fence: the highest token reserved so far.
--
-- Nothing but Redis' own TIME is taken for a clock. Every read that can meet a key of the wrong type comes before the
-- first write, so that a script that fails has changed nothing.
--
-- Who changes what stands in these keys or in a message changes Sources/RedisProtocol/LeaseCodec.swift and the section
-- on Redis in protocol/README.md with it.

local lock, queue, fence = KEYS[1], KEYS[2], KEYS[3]
local me, attempt, lease, inbox, name = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local token_count, fence_ttl, token_floor = tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8])
local my_entry = me .. ':' .. attempt .. ':' .. lease

local value = redis.call('GET', lock)
local waiting = redis.call('LLEN', queue)
local counter = tonumber(redis.call('GET', fence) or '0') or 0

-- "<host>/<instance>:<attempt>:<number>" in its three parts; nothing for what no sidelock host wrote.
local function parts(text)
  return string.match(text, '^([%w._-]+/%x+):(%d+):(%d+)$')
end

-- Gives the lock to `instance` under `its_attempt` and reserves a block of tokens for it: above the counter, above
-- whatever this host has seen, and not below the clock, so that a lost counter does not take the tokens back.
local function take(instance, its_attempt, its_lease, first)
  counter = first + token_count - 1
  redis.call('SET', lock, instance .. ':' .. its_attempt .. ':' .. string.format('%.0f', first), 'PX', its_lease)
  redis.call('SET', fence, string.format('%.0f', counter), 'PX', fence_ttl)
end

local function next_token()
  local time = redis.call('TIME')
  return math.max(counter, token_floor, tonumber(time[1]) * 1000000 + tonumber(time[2])) + 1
end

-- Keeps the queue for at least so many milliseconds: a host with a short lease must not shorten the wait of others.
local function keep_queue(milliseconds)
  redis.call('PEXPIRE', queue, math.max(milliseconds, redis.call('PTTL', queue)))
end

-- Gives a lock that nobody holds to the host that has waited longest and is connected; a host to which the message
-- cannot be delivered is gone, and is passed over. Returns the instance and lease of the new holder, or nothing.
local function pass_on()
  local first = next_token()
  while true do
    local entry = redis.call('LPOP', queue)
    if not entry then return nil end
    local instance, its_attempt, its_lease = parts(entry)
    if entry == my_entry then
      take(me, attempt, lease, first)
      return me, lease, first
    elseif instance then
      local message = table.concat({
        'granted', its_attempt, string.format('%.0f', first), token_count, redis.call('LLEN', queue), name }, ' ')
      if redis.call('PUBLISH', inbox .. instance, message) > 0 then
        take(instance, its_attempt, its_lease, first)
        keep_queue(2 * its_lease)
        return instance, its_lease
      end
    end
  end
end
