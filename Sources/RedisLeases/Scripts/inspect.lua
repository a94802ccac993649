-- What stands in Redis about some locks. It changes nothing.
--
-- KEYS     for each lock its key, its queue's and its fence's
-- ARGV[1]  how many waiting hosts to name at the most
-- ARGV[2]  the key of the epoch
--
-- Returns, for each lock, {mode, PTTL, {"<host>/<instance>:<attempt>:<first token>" of each holder}, hosts in the queue,
-- {the first entries of the queue}, "<key> <type>" where one of its keys holds other data, else null, {"<host>/<instance>" of
-- each holder that is dead, and whose part is anybody's who asks}}; the mode is null where nobody holds it, 'foreign' or
-- 'wrongtype'.
local found = {}
for i = 1, #KEYS, 3 do
  local value = redis.pcall('GET', KEYS[i])
  local length = redis.pcall('LLEN', KEYS[i + 1])
  local entries = redis.pcall('LRANGE', KEYS[i + 1], 0, ARGV[1] - 1)
  local fenced = redis.pcall('GET', KEYS[i + 2])
  for _, reply in ipairs({ value or '', length, entries, fenced or '' }) do
    if is_refusal(reply) then return reply end
  end
  local other = other_data('lock', KEYS[i], value) or other_data('queue', KEYS[i + 1], length)
    or other_data('fence', KEYS[i + 2], fenced)
  if type(length) ~= 'number' then length, entries = 0, {} end
  local mode, names, gone = false, {}, {}
  if type(value) == 'string' then
    local list
    mode, list = holders_in(value)
    for _, holder in ipairs(list) do
      names[#names + 1] = holder.instance .. ':' .. holder.attempt .. ':' .. holder.token
      if is_dead(ARGV[2], holder.instance) then gone[#gone + 1] = holder.instance end
    end
  elseif value then
    mode = 'wrongtype'
  end
  found[#found + 1] = { mode or false, redis.call('PTTL', KEYS[i]), names, length, entries,
    other and string.sub(other.err, #'WRONGTYPE ' + 1) or false, gone }
end
return found
