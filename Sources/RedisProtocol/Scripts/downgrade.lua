-- Share the lock that this host has to itself under this attempt, with the same end, and let in those who wait to share
-- it. Anything else stays as it is.
--
-- ARGV[9]  one past the last token that this host keeps of its block
local holder = holders[1]
if mode ~= 'x' or holder.instance ~= me or holder.attempt ~= attempt then return 0 end
local is_highest = counter == tonumber(holder.token) + holder.tokens - 1
-- Of a block that this host has not heard of it keeps nothing.
holder.tokens = math.max(0, tonumber(ARGV[9]) - tonumber(holder.token))
if is_highest then count_to(tonumber(holder.token) + holder.tokens - 1) end
holder.ends = now_ms() + redis.call('PTTL', lock)
mode = 's'
write_holders(lock, mode, holders)
if waiting > 0 then pass_on() end
return 1
