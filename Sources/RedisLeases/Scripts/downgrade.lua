-- Share the lock that this host has to itself under this attempt, with the same end, and let in those who wait to share
-- it. Anything else stays as it is.
--
-- ARGV[11] one past the last token that this host keeps of its block
--
-- Returns 1 when this host shares the lock under this attempt, or {'other_epoch'}.
if not is_open and not is_grace then return elsewhere() end
if other then return other end
local holder
for _, found in ipairs(holders) do
  if found.instance == me and found.attempt == attempt then holder = found end
end
if not holder then return 0 end
if mode == 'x' then
  local is_highest = counter == tonumber(holder.token) + holder.tokens - 1
  holder.ends = now_ms() + redis.call('PTTL', lock)
  -- Of a block that this host has not heard of it keeps nothing.
  holder.tokens = math.max(0, tonumber(ARGV[11]) - tonumber(holder.token))
  if is_highest then count_to(tonumber(holder.token) + holder.tokens - 1) end
  mode = 's'
  write_holders(lock, mode, holders, more)
end
-- Also where it is shared already: an earlier run may have come only so far.
if is_open and waiting > 0 then pass_on() end
return 1
