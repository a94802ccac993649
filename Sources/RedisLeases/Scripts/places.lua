-- Which of this host's waits need to be asked for again: those that have lost their place in the queue, and those for
-- locks that could be passed on, and were not. It mends nothing; acquire.lua, asked again under the same attempt, does.
-- It changes only who is suspected to be gone: see is_gone in values.lua.
--
-- Usually there are none. It is for what nobody tells: a message that was lost with a connection, a queue or a lock's
-- key that was deleted by hand, a script that a missing right ended half way.
--
-- KEYS     for each wait the lock's key and its queue's key
-- ARGV     for each wait this host's entry in the queue; and behind them what stands before the inboxes of all hosts,
--          the key of the epoch, and what it begins with: see common.lua
--
-- Returns the numbers of those waits, from 1 on; or {'other_epoch'}; or READONLY.

-- A primary that was made a replica answers reads for ever, and its messages are those of the new primary. This write
-- changes nothing, and there it is refused, which makes the daemon connect anew (RedisErrorReply.swift). Any other
-- refusal says nothing about the places.
local tried = redis.pcall('LPOP', KEYS[2], 0)
if type(tried) == 'table' and tried.err and string.find(tried.err, 'READONLY', 1, true) then return tried end

local count = #ARGV - 3
local inbox, stands = ARGV[count + 1], redis.pcall('GET', ARGV[count + 2])
if is_refusal(stands) then return stands end
local is_open, is_grace = stage_of(stands, ARGV[count + 3])
if not is_open and not is_grace then return { 'other_epoch' } end

-- Whether a wait, whose entry is `entry`, needs nothing; or a refusal.
local function is_well(lock, queue, entry)
  local value, head = redis.pcall('GET', lock), redis.pcall('LINDEX', queue, 0)
  if is_refusal(value) then return value end
  if is_refusal(head) then return head end
  if head == entry then redis.pcall('DEL', queue .. ':suspect') end
  -- In the grace nobody is served, so that only the place counts.
  if is_grace then return type(head) == 'string' and (head == entry or redis.call('LPOS', queue, entry)) and true end
  -- Other data in one of the keys, or no queue: the ask will tell.
  if type(head) ~= 'string' or type(value) ~= 'string' then return false end
  local mode, all = holders_in(value)
  local holders, first, _, _, its_mode = {}, waiter(head)
  for _, holder in ipairs(all) do
    if not is_dead(ARGV[count + 2], holder.instance) then holders[#holders + 1] = holder end
  end
  if #holders == 0 and #all > 0 then mode = nil end
  local well = its_mode and not can_join(mode, holders, its_mode)
    and (head == entry or redis.call('LPOS', queue, entry)) and true
  -- The first does not fit, and those who share the lock may have it for hours.
  if well and head ~= entry and mode ~= 'x' then
    local name = string.gsub(string.match(lock, '{([^{}]*)}$') or '', '%%(%x%x)', function(digits)
      return string.char(tonumber(digits, 16))
    end)
    well = not is_dead(ARGV[count + 2], first or '') and not is_gone(queue, head, inbox, name)
  end
  local me, attempt = waiter(entry)
  for _, holder in ipairs(holders) do
    -- It has the lock by now, and should have been told.
    if holder.instance == me and holder.attempt == attempt then well = false end
  end
  return well
end

local found = {}
for i = 1, count do
  local entry = ARGV[i]
  local well = is_well(KEYS[2 * i - 1], KEYS[2 * i], entry)
  if type(well) == 'table' then return well end
  if not well then found[#found + 1] = i end
end
return found
