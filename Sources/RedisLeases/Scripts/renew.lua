-- Extend many leases, each only where this host still holds it under the attempt named. It never makes a key anew:
-- reclaim.lua can. It does nothing but in the epoch that this host knows: what stands in another one may be older, and what
-- is renewed there would last longer than the others know.
--
-- KEYS     the locks
-- ARGV[1]  this host's "<host>/<instance>"
-- ARGV[2]  the lease in milliseconds
-- ARGV[3]  the key of the epoch
-- ARGV[4]  what it begins with: see common.lua
-- ARGV[i + 4]  the attempt under which KEYS[i] was taken
--
-- Returns, for each lock, 1 when it was renewed, 0 when it is not this host's, and 2 when its key is not there at all; or
-- {'other_epoch'}.
local stands = redis.pcall('GET', ARGV[3])
if is_refusal(stands) then return stands end
local is_open, is_grace = stage_of(stands, ARGV[4])
if not is_open and not is_grace then return { 'other_epoch' } end

local shared, order = {}, {}

-- What stands in a key that several leases share. It is read once, however many of them are this host's.
local function shared_at(key, value)
  local mode, holders, more = holders_in(value)
  local mine = {}
  for _, holder in ipairs(holders) do
    if holder.instance == ARGV[1] then mine[holder.attempt] = holder end
  end
  shared[key] = { mode = mode, holders = holders, more = more, mine = mine }
  order[#order + 1] = key
end

local function renew_shared(key, attempt)
  local holder = shared[key].mine[attempt]
  if not holder then return 0 end
  if shared[key].mode == 'x' then return redis.call('PEXPIRE', key, ARGV[2]) end
  holder.ends = now_ms() + tonumber(ARGV[2])
  shared[key].is_renewed = true
  return 1
end

local renewed = {}
for i = 1, #KEYS do
  local key = KEYS[i]
  local value = not shared[key] and redis.pcall('GET', key)
  local mine = 'sidelock1;x;' .. ARGV[1] .. ':' .. ARGV[i + 4] .. ':'
  renewed[i] = 0
  if not shared[key] and not value then renewed[i] = 2 end
  -- A key of another type is no lease. Any other error says nothing about the lease, which must not be lost for it.
  if is_refusal(value) then return value end
  if type(value) == 'string' then
    if string.sub(value, 1, #mine) == mine then
      renewed[i] = redis.call('PEXPIRE', key, ARGV[2])
    elseif string.sub(value, 1, 10) == 'sidelock1;' then
      shared_at(key, value)
    end
  end
  if shared[key] then renewed[i] = renew_shared(key, ARGV[i + 4]) end
end
for _, key in ipairs(order) do
  if shared[key].is_renewed then
    -- A full Redis refuses to write a value before this, and a lease must not be lost for that.
    redis.call('PEXPIRE', key, ARGV[2])
    write_holders(key, shared[key].mode, shared[key].holders, shared[key].more)
  end
end
return renewed
