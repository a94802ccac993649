-- Put the expiry of many leases off, each only where this host still holds it under the attempt named. It never makes
-- a key anew: a lock that is gone has been lost.
--
-- KEYS     the locks
-- ARGV[1]  this host's "<host>/<instance>"
-- ARGV[2]  the lease in milliseconds
-- ARGV[i + 2]  the attempt under which KEYS[i] was taken
--
-- Returns, for each lock, 1 when it was renewed and 0 when it is not this host's.
local renewed = {}
for i = 1, #KEYS do
  local value = redis.pcall('GET', KEYS[i])
  local mine = ARGV[1] .. ':' .. ARGV[i + 2] .. ':'
  if type(value) == 'string' and string.sub(value, 1, #mine) == mine then
    redis.call('PEXPIRE', KEYS[i], ARGV[2])
    renewed[i] = 1
  else
    renewed[i] = 0
  end
end
return renewed
