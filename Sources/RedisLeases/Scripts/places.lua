-- Which of this host's waits need to be asked for again: those that have lost their place in the queue, and those for
-- locks that could be passed on, and were not. It mends nothing; acquire.lua, asked again under the same attempt, does.
-- It changes only who is suspected to be gone: see is_gone in values.lua.
--
-- Usually there are none. It is for what nobody tells: a message that was lost with a connection, a queue or a lock's
-- key that was deleted by hand, a script that a missing right ended half way.
--
-- KEYS     for each wait the lock's key and its queue's key
-- ARGV     for each wait this host's entry in the queue; and behind them what stands before the inboxes of all hosts
--
-- Returns the numbers of those waits, from 1 on; or READONLY.

-- A primary that was made a replica answers reads for ever, and its messages are those of the new primary. This write
-- changes nothing, and there it is refused, which makes the daemon connect anew (RedisErrorReply.swift). Any other
-- refusal says nothing about the places.
local tried = redis.pcall('LPOP', KEYS[2], 0)
if type(tried) == 'table' and tried.err and string.find(tried.err, 'READONLY', 1, true) then return tried end

local found = {}
for i = 1, #ARGV - 1 do
  local lock, queue, entry = KEYS[2 * i - 1], KEYS[2 * i], ARGV[i]
  local value, head = redis.pcall('GET', lock), redis.pcall('LINDEX', queue, 0)
  if is_refusal(value) then return value end
  if is_refusal(head) then return head end
  if head == entry then redis.pcall('DEL', queue .. ':suspect') end
  local is_well = false
  -- Other data in one of the keys, or no queue: the ask will tell.
  if type(head) == 'string' and type(value) == 'string' then
    local mode, holders = holders_in(value)
    local _, _, _, its_mode = waiter(head)
    is_well = its_mode and not can_join(mode, holders, its_mode)
      and (head == entry or redis.call('LPOS', queue, entry)) and true
    -- The first does not fit, and those who share the lock may have it for hours.
    if is_well and head ~= entry and mode ~= 'x' then
      local name = string.gsub(string.match(lock, '{(.-)}') or '', '%%(%x%x)', function(digits)
        return string.char(tonumber(digits, 16))
      end)
      is_well = not is_gone(queue, head, ARGV[#ARGV], name)
    end
    local me, attempt = waiter(entry)
    for _, holder in ipairs(holders) do
      -- It has the lock by now, and should have been told.
      if holder.instance == me and holder.attempt == attempt then is_well = false end
    end
  end
  if not is_well then found[#found + 1] = i end
end
return found
