-- Neither hold the lock nor wait for it under this attempt, or this and every earlier one; hand it on if it was held. It
-- answers to both a release and a withdrawal, so that it can be asked when it is not known which of the two is needed.
--
-- ARGV[11]  the first token of the block that was not issued, '' where none was issued, or '-' where that is not known
-- ARGV[12]  1 when only this attempt is meant
--
-- It is carried out in every epoch, as it names what is given up; but only in an open one is the lock handed on.
--
-- Other data in the keys beside the lock are left alone, and nobody has to wait for that: the lock is given back without
-- them. Those who wait in a queue that is one look at it themselves, and are told.
if other and (type(value) == 'table' or is_refusal(queued) or is_refusal(fenced)) then return other end
local first_unused, is_exact = ARGV[11], ARGV[12] == '1'

local function is_given_up(instance, its_attempt)
  if instance ~= me then return false end
  if is_exact then return its_attempt == attempt end
  return tonumber(its_attempt) <= tonumber(attempt)
end

if waiting > 0 then
  for _, entry in ipairs(redis.call('LRANGE', queue, 0, -1)) do
    local instance, its_attempt = waiter(entry)
    if is_given_up(instance, its_attempt) then
      redis.call('LREM', queue, 0, entry)
    end
  end
end

if other then waiting = 0 end

local kept, given_up = {}, nil
for _, holder in ipairs(holders) do
  if not is_given_up(holder.instance, holder.attempt) then
    kept[#kept + 1] = holder
  elseif not given_up or holder.attempt == attempt then
    given_up = holder
  end
end
if not given_up then
  -- A host behind this one may fit where this one did not; and an earlier run may have come only so far.
  if is_open and waiting > 0 and mode ~= 'foreign' then pass_on() end
  return 0
end
holders = kept
if #holders == 0 then mode, more = nil, nil end

-- What was not issued is given back, where nobody has reserved above it: a counter that ran ahead of the clock would
-- be missed if it were lost.
local is_fence_changed = not other and given_up.attempt == attempt and first_unused ~= '-'
  and counter == tonumber(given_up.token) + given_up.tokens - 1
-- A block that this host has not heard of lies above what it has issued.
if is_fence_changed then counter = math.max(tonumber(first_unused) or 0, tonumber(given_up.token)) - 1 end

-- A full Redis refuses many commands until a script has written something; what comes first here is not among them.
local anybody = false
if not other and (waiting > 0 or #holders > 0) then redis.call('LREM', queue, 0, '') end
if is_open and waiting > 0 then
  local _
  _, anybody = pass_on()
end
if not anybody then
  if #holders == 0 then redis.call('DEL', lock) else write_holders(lock, mode, holders, more) end
  if is_fence_changed then count_to(counter) end
end
return 1
