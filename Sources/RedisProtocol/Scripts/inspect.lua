-- What stands in Redis about some locks. It changes nothing.
--
-- KEYS     for each lock its key and its queue's key
-- ARGV[1]  how many waiting hosts to name at the most
--
-- Returns, for each lock, {value, PTTL, hosts in the queue, {the first of them}}; the value is null where there is no
-- key, and 0 where there is one that is no string.
local found = {}
for i = 1, #KEYS, 2 do
  local value = redis.pcall('GET', KEYS[i])
  local length = redis.pcall('LLEN', KEYS[i + 1])
  local hosts = redis.pcall('LRANGE', KEYS[i + 1], 0, ARGV[1] - 1)
  if value and type(value) ~= 'string' then value = 0 end
  if type(length) ~= 'number' then length, hosts = 0, {} end
  found[#found + 1] = { value, redis.call('PTTL', KEYS[i]), length, hosts }
end
return found
