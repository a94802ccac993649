-- Does in small what the other scripts do, and looks whether it took effect: what stands between the daemon and a plain
-- primary may take every command, and still break what exclusion rests on. It leaves nothing behind.
--
-- KEYS[1]  a key that no lock can have
-- ARGV[1]  the daemon's own inbox, to which this connection listens
-- ARGV[2]  what is published there
--
-- Returns how many heard it, and the first command that did something else, with what it replied: two empty texts where
-- all was well.
local key, command, said = KEYS[1], '', ''

-- Any reply that is no error will do where nothing is expected.
local function try(expected, ...)
  if command ~= '' then return end
  local reply = redis.pcall(...)
  if type(reply) == 'table' then
    if reply.err then
      command, said = (...), reply.err
      return
    end
    reply = reply.ok
  end
  if expected ~= nil and reply ~= expected then command, said = (...), 'it replied ' .. tostring(reply) end
  return reply
end

local heard = try(nil, 'PUBLISH', ARGV[1], ARGV[2])
-- A script reads keys of other locks, and the epoch's. Some of these lie elsewhere if there is any elsewhere.
for number = 1, 16 do try(nil, 'EXISTS', key .. number) end
try(nil, 'DEL', key)
try(false, 'SET', key, 'one', 'PX', 60000, 'GET')
try('one', 'GET', key)
try('OK', 'SET', key, 'two', 'XX', 'KEEPTTL')
try('two', 'GET', key)
local left = try(nil, 'PTTL', key)
if command == '' and (left <= 0 or left > 60000) then command, said = 'PTTL', 'it replied ' .. left end
try(1, 'DEL', key)
try(0, 'EXISTS', key)
try(1, 'RPUSH', key, 'a')
try(2, 'RPUSH', key, 'b')
try(1, 'LPOS', key, 'b')
try(1, 'LREM', key, 0, 'a')
try('b', 'LPOP', key)
if command ~= '' then redis.pcall('DEL', key) end
return {heard or 0, command, said}
