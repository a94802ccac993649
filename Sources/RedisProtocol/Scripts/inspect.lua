-- What stands in Redis about some locks. It changes nothing.
--
-- KEYS     for each lock its key and its queue's key
-- ARGV[1]  how many waiting hosts to name at the most
--
-- Returns, for each lock, {mode, PTTL, {"<host>/<instance>:<attempt>:<first token>" of each holder}, hosts in the queue,
-- {the first entries of the queue}}; the mode is null where nobody holds it, 'foreign' or 'wrongtype'.
local found = {}
for i = 1, #KEYS, 2 do
  local value = redis.pcall('GET', KEYS[i])
  local length = redis.pcall('LLEN', KEYS[i + 1])
  local entries = redis.pcall('LRANGE', KEYS[i + 1], 0, ARGV[1] - 1)
  for _, reply in ipairs({ value, length, entries }) do
    if is_refusal(reply) then return reply end
  end
  if type(length) ~= 'number' then length, entries = 0, {} end
  local mode, names = false, {}
  if type(value) == 'string' then
    local list
    mode, list = holders_in(value)
    for _, holder in ipairs(list) do
      names[#names + 1] = holder.instance .. ':' .. holder.attempt .. ':' .. holder.token
    end
  elseif value then
    mode = 'wrongtype'
  end
  found[#found + 1] = { mode or false, redis.call('PTTL', KEYS[i]), names, length, entries }
end
return found
