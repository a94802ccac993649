-- Neither hold the lock nor wait for it under this attempt or an earlier one; hand it on if it was held. It answers to
-- both a release and a withdrawal, so that it can be asked when it is not known which of the two is needed.
--
-- ARGV[9]  the first token of the block that was not issued, or '' where none was
local first_unused = ARGV[9]

redis.call('LREM', queue, 0, my_entry)
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
