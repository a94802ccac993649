-- Quick way, put before acquire.lua: a lock that nobody has or waits for, wanted exclusively, in an open epoch. It must
-- have the same effects as the code below it (QuickScriptTests.swift).
local stands = ARGV[11] == 'x' and redis.call('EXISTS', KEYS[1], KEYS[2]) == 0 and redis.pcall('GET', ARGV[9])
if type(stands) == 'string' and string.sub(stands, 1, #ARGV[10]) == ARGV[10] then
  local time, token_count = redis.call('TIME'), tonumber(ARGV[6])
  local floor = tonumber(string.match(stands, '^[^;]*;%d+;%d+;%d+;(%d+)', #ARGV[10] + 1)) or 0
  local first = math.max(time[1] * 1000000 + time[2], tonumber(ARGV[8]), floor) + 1
  -- Until when the counter is kept: see count_to in common.lua.
  local kept = ARGV[7] - time[1] * 1000 - math.floor(time[2] / 1000)
  local last = first + token_count - 1
  local left = string.format('%.0f', math.max(1, math.ceil(last / 1000) + kept))
  local reserved = redis.pcall('SET', KEYS[3], string.format('%.0f', last), 'PX', left, 'GET')
  -- Other data in that key, or another error: the long way tells which.
  if type(reserved) ~= 'table' then
    reserved = tonumber(reserved or 0) or 0
    if reserved >= first then
      first = reserved + 1
      last = first + token_count - 1
      left = string.format('%.0f', math.max(1, math.ceil(last / 1000) + kept))
      redis.call('SET', KEYS[3], string.format('%.0f', last), 'PX', left)
    end
    local token = string.format('%.0f', first)
    redis.call('SET', KEYS[1], 'sidelock1;x;' .. ARGV[1] .. ':' .. ARGV[2] .. ':' .. token, 'PX', ARGV[3])
    return { 'granted', token, token_count, 0 }
  end
end

