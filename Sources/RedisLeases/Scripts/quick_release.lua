-- Quick way, put before release.lua: this host has the lock exclusively under this very attempt, and nobody waits, or
-- one other host, alive, that wants it exclusively, with at most one place behind it that this release leaves there, in an open
-- epoch. It must have the same effects as the code below it (QuickScriptTests.swift), which goes on without the other host if that one
-- is gone.
local quick_mine = 'sidelock1;x;' .. ARGV[1] .. ':' .. ARGV[2] .. ':'
local quick_value = redis.pcall('GET', KEYS[1])
local entries = redis.pcall('LRANGE', KEYS[2], 0, 2)
local quick_fence = redis.pcall('GET', KEYS[3])
-- Where a key holds other data the long way tells which.
if type(quick_value) == 'string' and not entries.err and type(quick_fence) ~= 'table'
  and string.sub(quick_value, 1, #quick_mine) == quick_mine
  and string.find(quick_value, '^%d+$', #quick_mine + 1) then
  local first, token_count = tonumber(string.sub(quick_value, #quick_mine + 1)), tonumber(ARGV[6])
  -- A counter that was lost: the block of this lease shows how far it had come.
  local last = first + token_count - 1
  local counter = math.max(tonumber(quick_fence or 0) or 0, last)
  local reserved = counter
  local time = redis.call('TIME')
  -- Keeps the counter: see count_to in common.lua.
  local function count_to(number)
    local left = math.ceil(number / 1000) - time[1] * 1000 - math.floor(time[2] / 1000) + ARGV[7]
    redis.call('SET', KEYS[3], string.format('%.0f', number), 'PX', string.format('%.0f', math.max(1, left)))
  end
  local is_given_back = counter == last and ARGV[11] ~= '-'
  if is_given_back then counter = math.max(tonumber(ARGV[11]) or 0, first) - 1 end
  if #entries == 0 then
    redis.call('DEL', KEYS[1])
    if is_given_back then count_to(counter) end
    return 1
  end
  local instance, attempt, lease = string.match(entries[1], '^1;([%w._-]+/%x+):(%d+):(%d+):x$')
  local is_usual = #entries == 1
  if #entries == 2 then
    local other, its_attempt, mode = string.match(entries[2], '^1;([%w._-]+/%x+):(%d+):%d+:(%w+)$')
    is_usual = (mode == 'x' or mode == 's') and (other ~= ARGV[1] or tonumber(its_attempt) > tonumber(ARGV[2]))
  end
  is_usual = is_usual and instance and instance ~= ARGV[1]
  local life = is_usual and redis.pcall('GET', ARGV[9] .. ':' .. instance)
  local dies = type(life) == 'string' and tonumber(string.match(life, '^1;(%d+)'))
  -- The other host is dead: see is_dead in values.lua.
  if dies and dies <= time[1] * 1000 + math.floor(time[2] / 1000) then is_usual = false end
  local stands = is_usual and redis.pcall('GET', ARGV[9])
  if type(stands) == 'string' and string.sub(stands, 1, #ARGV[10]) == ARGV[10] then
    local floor = tonumber(string.match(stands, '^[^;]*;%d+;%d+;%d+;(%d+)', #ARGV[10] + 1)) or 0
    local next_first = math.max(counter, tonumber(ARGV[8]), floor, time[1] * 1000000 + time[2]) + 1
    local token = string.format('%.0f', next_first)
    local message = '1;granted ' .. attempt .. ' ' .. token .. ' ' .. ARGV[6] .. ' ' .. #entries - 1 .. ';' .. ARGV[5]
    -- What can be refused is tried before the message, or is the message: see be_sure in common.lua.
    if #entries > 1 then redis.call('PEXPIRE', KEYS[2], math.max(2 * lease, redis.call('PTTL', KEYS[2]))) end
    redis.call('LPOP', KEYS[2], 0)
    count_to(next_first + token_count - 1)
    local receivers = redis.call('PUBLISH', ARGV[4] .. instance, message)
    redis.call('LPOP', KEYS[2])
    if receivers > 0 then
      redis.call('SET', KEYS[1], 'sidelock1;x;' .. instance .. ':' .. attempt .. ':' .. token, 'PX', lease)
      return 1
    end
    count_to(reserved)
  end
end

