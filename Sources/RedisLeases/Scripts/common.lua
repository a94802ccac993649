-- What every script of one lock shares; it is put before acquire.lua, release.lua, downgrade.lua, reserve.lua and
-- take_away.lua.
--
-- KEYS[1]  the lock
-- KEYS[2]  the queue: a list, the longest waiting first
-- KEYS[3]  the fence: the highest token reserved so far
--
-- ARGV[1]  this host's "<host>/<instance>"
-- ARGV[2]  its attempt
-- ARGV[3]  the lease in milliseconds, of acquire.lua; the others make none for this host, and have 0
-- ARGV[4]  what stands before the inboxes of all hosts
-- ARGV[5]  the name of the lock
-- ARGV[6]  how many tokens a lease reserves
-- ARGV[7]  how long a counter is kept once the clock has reached it, in milliseconds
-- ARGV[8]  what is granted lies above this token
-- ARGV[9]  the key of the epoch. It is no key of the lock, and in another slot
-- ARGV[10] what stands there at the beginning when the epoch that this host knows is open: "1;<id>;o;"
--
-- Nothing is granted unless that epoch is open: in another one, or in none, other hosts may have what is not to be seen
-- here, and in its grace they have not all taken it again.
--
-- The only clock is Redis' own TIME.
--
-- A script can fail in the middle: Redis keeps what it wrote before a refused call. So that this harms nobody:
--   * Every read that can meet a key of the wrong type comes before the first write.
--   * A server that is full or must not be written to refuses the first write of a script, or none.
--   * A right that this user lacks is missing for the whole of the script, and may be back when it runs again. Only
--     what the next run finds and goes on with may be left half done: a queue that is kept longer, a counter that is
--     too high, an entry of this host's own that came or went, a holder that was taken out while nobody waits. Before
--     anything else be_sure() has tried all that follows.
--   * A script that runs again passes the lock on where it can, whatever was left of its own part to do.

local lock, queue, fence = KEYS[1], KEYS[2], KEYS[3]
local me, attempt, lease, inbox, name = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local token_count, fence_margin, token_floor = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])

local stands = redis.pcall('GET', ARGV[9])
local is_open, is_grace = stage_of(stands, ARGV[10])
if is_open then token_floor = math.max(token_floor, floor_of(stands, ARGV[10])) end
local value, queued, fenced = redis.pcall('GET', lock), redis.pcall('LLEN', queue), redis.pcall('GET', fence)
local waiting, counter = tonumber(queued) or 0, tonumber(fenced) or 0

-- The reply where one of the keys holds other data, or could not be read; nil elsewhere.
local other = other_data('lock', lock, value) or other_data('queue', queue, queued) or other_data('fence', fence, fenced)

-- The reply to what cannot be said or done in another epoch than the one that this host knows.
local function elsewhere() return is_refusal(stands) and stands or { 'other_epoch' } end

-- Who holds the lock. What changes `holders` changes `mode` and the key with it.
local mode, holders, more = nil, {}, nil
if type(value) == 'string' then mode, holders, more = holders_in(value) end

-- How many tokens a lease reserves from `first` on.
--
-- Shared leases have their blocks one after the other, and what is left of the lower ones cannot be given back. So the
-- counter runs ahead of the clock, which makes up for it when it is lost. These blocks are small, therefore, and once
-- the counter is 50 ms ahead so small that no two leases can follow each other faster than the clock counts them.
local function block(its_mode, first)
  if its_mode == 'x' then return token_count end
  local now = clock()
  local is_ahead = first > now[1] * 1000000 + now[2] + 50000
  return math.max(1, math.floor(token_count / (is_ahead and 4096 or its_mode == 's' and 16 or 1024)))
end

-- A counter that was lost: the blocks of those who hold the lock show how far it had come.
for _, holder in ipairs(holders) do
  holder.tokens = holder.tokens or token_count
  counter = math.max(counter, tonumber(holder.token) + holder.tokens - 1)
end

-- Sets the counter to `last`.
--
-- A token is at least Redis' clock in microseconds, so the counter matters only while the clock is behind it: just
-- after a block was reserved, or when the clock was set back. It is kept until the clock has reached it, and
-- fence_margin longer, for a clock that is set back after that. The key ends by the same clock, so one that is set back
-- before keeps it for as much longer. While somebody has the lock, the holder's block tells how far the counter had
-- come.
local function count_to(last)
  counter = last
  redis.call('SET', fence, digits(counter), 'PX', digits(math.max(1, math.ceil(last / 1000) - now_ms() + fence_margin)))
end

-- Whether a lease in this mode can stand beside those that there are.
local function fits(its_mode) return can_join(mode, holders, its_mode) end

-- Gives the lock, or a share of it, to `instance` under `its_attempt`, and reserves a block of tokens for it. Returns the
-- holder that it is now.
local function take(instance, its_attempt, its_lease, its_mode, first)
  local holder = { instance = instance, attempt = its_attempt, token = digits(first), tokens = block(its_mode, first) }
  if its_mode == 'x' then
    holders = { holder }
    redis.call('SET', lock, value_of(its_mode, holders), 'PX', its_lease)
  else
    holder.ends = now_ms() + tonumber(its_lease)
    holders[#holders + 1] = holder
    write_holders(lock, its_mode, holders, more)
  end
  mode = its_mode
  count_to(first + holder.tokens - 1)
  return holder
end

-- Above the counter, above whatever this host has seen of any lock, and not below the clock, so that a lost counter does
-- not take the tokens back.
local function next_token()
  local now = clock()
  return math.max(counter, token_floor, now[1] * 1000000 + now[2]) + 1
end

-- The reply to who has the lock as `holder`.
local function granted(holder)
  return { 'granted', holder.token, holder.tokens, waiting > 0 and redis.call('LLEN', queue) or 0 }
end

-- Keeps a key for at least so many milliseconds: a host with a short lease must not shorten the wait of others.
local function keep(key, milliseconds)
  redis.call('PEXPIRE', key, math.max(milliseconds, redis.call('PTTL', key)))
end

-- Tries each command by which a lock is passed on, except PUBLISH, without passing it on: a refusal happens here.
-- PUBLISH comes next, and the rest cannot be refused then. So no host is told of a lock that cannot be written, and no
-- entry leaves the queue whose host does not get the lock, or is not told: it would be lost for good.
--
-- PEXPIRE comes first: a full Redis refuses much until a script has written something, but not this.
local is_sure = false
local function be_sure(its_lease)
  if is_sure then return end
  clock()
  keep(queue, 2 * its_lease)
  redis.call('LPOP', queue, 0)
  count_to(counter)
  is_sure = true
end

-- Gives the lock to the hosts that have waited longest, as long as they fit: one alone, or all that stand together and
-- can share it. Only in an open epoch. A host that is dead, or does not receive the message, is skipped; so is one that is
-- gone and keeps `my_entry` out. The host of `my_entry` is told by the reply and not by a message. Returns its holder if it was among
-- them, and whether anybody was.
local function pass_on(my_entry)
  local mine, anybody
  while true do
    local entry = redis.call('LINDEX', queue, 0)
    if not entry then break end
    local instance, its_attempt, its_lease, its_mode = waiter(entry)
    if instance and instance ~= me and is_dead(ARGV[9], instance) then instance = nil end
    if instance and not fits(its_mode) then
      if entry == my_entry then redis.pcall('DEL', queue .. ':suspect') end
      -- Where one host alone has the lock its release finds it out.
      if not my_entry or mode == 'x' or instance == me or not is_gone(queue, entry, inbox, name) then break end
      instance = nil
    end
    be_sure(its_lease or 10000)
    if entry == my_entry then
      redis.call('LPOP', queue)
      mine, anybody = take(me, attempt, lease, its_mode, next_token()), true
    elseif instance then
      local first = next_token()
      local message = table.concat({
        '1;granted', its_attempt, digits(first), block(its_mode, first), redis.call('LLEN', queue) - 1 }, ' ') .. ';' .. name
      local receivers = redis.call('PUBLISH', inbox .. instance, message)
      redis.call('LPOP', queue)
      if receivers > 0 then
        anybody = true
        take(instance, its_attempt, its_lease, its_mode, first)
        keep(queue, 2 * its_lease)
      end
    else
      redis.call('LPOP', queue)
    end
  end
  return mine, anybody
end
