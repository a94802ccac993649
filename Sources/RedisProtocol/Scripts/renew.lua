-- Put the end of many leases off, each only where this host still holds it under the attempt named. It never makes a
-- key anew: a lock that is gone has been lost.
--
-- KEYS     the locks
-- ARGV[1]  this host's "<host>/<instance>"
-- ARGV[2]  the lease in milliseconds
-- ARGV[i + 2]  the attempt under which KEYS[i] was taken
--
-- Returns, for each lock, 1 when it was renewed and 0 when it is not this host's.
local function renew_shared(key, value, attempt)
  local mode, holders = holders_in(value)
  for _, holder in ipairs(holders) do
    if holder.instance == ARGV[1] and holder.attempt == attempt then
      holder.ends = now_ms() + tonumber(ARGV[2])
      -- A full Redis refuses to write a value before this, and a lease must not be lost for that.
      redis.call('PEXPIRE', key, ARGV[2])
      write_holders(key, mode, holders)
      return 1
    end
  end
  return 0
end

local renewed = {}
for i = 1, #KEYS do
  local value = redis.pcall('GET', KEYS[i])
  local mine = ARGV[1] .. ':' .. ARGV[i + 2] .. ':'
  renewed[i] = 0
  -- A key of another type is no lease. Any other error says nothing about the lease, which must not be lost for it.
  if is_refusal(value) then return value end
  if type(value) == 'string' then
    if string.sub(value, 1, #mine) == mine then
      renewed[i] = redis.call('PEXPIRE', KEYS[i], ARGV[2])
    elseif string.sub(value, 1, 9) == 'sidelock-' then
      renewed[i] = renew_shared(KEYS[i], value, ARGV[i + 2])
    end
  end
end
return renewed
