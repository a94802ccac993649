-- Neither hold the lock nor wait for it under this attempt or an earlier one; hand it on if it was held. It answers to
-- both a release and a withdrawal, so that it can be asked when it is not known which of the two is needed.
--
-- ARGV[9]  the first token of the block that was not issued, or '' where none was
local first_unused = ARGV[9]

-- Always the first write, because a full Redis refuses many others until a script has written something.
redis.call('LREM', queue, 0, my_entry)
if waiting > 0 then
  -- Earlier attempts whose release was refused and then forgotten for this one.
  for _, entry in ipairs(redis.call('LRANGE', queue, 0, -1)) do
    local instance, its_attempt = parts(entry)
    if instance == me and tonumber(its_attempt) <= tonumber(attempt) then redis.call('LREM', queue, 0, entry) end
  end
end
if not value then return 0 end
local holder, its_attempt, token = parts(value)
if holder ~= me or tonumber(its_attempt) > tonumber(attempt) then return 0 end

-- What was not issued is given back, where nobody has reserved above it: a counter that ran ahead of the clock would
-- be missed if it were lost.
if its_attempt == attempt and counter == tonumber(token) + token_count - 1 then
  counter = (tonumber(first_unused) or tonumber(token)) - 1
  redis.call('SET', fence, string.format('%.0f', counter), 'PX', fence_ttl)
end
if not pass_on() then redis.call('DEL', lock) end
return 1
