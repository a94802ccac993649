-- Tries everything that this daemon asks of Redis, so that a missing right shows when it connects, and not at the first
-- lock that two hosts want. It changes nothing: the key is not there, and what is written is taken away again.
--
-- KEYS[1]  a key that no lock can have
-- ARGV[1]  a channel to which nobody listens
--
-- Returns, for each command that was refused, its name and the error.
--
-- A command that another script uses is tried here; a test compares them, and Sources/RedisLeases/LeaseRights.swift.
local key, refused = KEYS[1], {}

local function try(command, ...)
  local reply = redis.pcall(command, ...)
  if type(reply) ~= 'table' or not reply.err then return true end
  refused[#refused + 1] = command
  refused[#refused + 1] = reply.err
  return false
end

try('PING')
try('TIME')
try('EXISTS', key)
try('GET', key)
try('PTTL', key)
try('LLEN', key)
try('LINDEX', key, 0)
try('TYPE', key)
try('LRANGE', key, 0, 0)
try('LPOS', key, '')
try('LREM', key, 0, '')
try('LPOP', key)
try('PEXPIRE', key, 1)
-- Only where the key is there, and it is not.
try('SET', key, '', 'XX', 'PX', 1, 'GET')
try('SET', key, '', 'XX', 'KEEPTTL')
if try('DEL', key) then
  try('RPUSH', key, '')
  redis.pcall('DEL', key)
else
  -- What could not be deleted again is not written; a user without DEL will hardly have RPUSH.
  refused[#refused + 1] = 'RPUSH'
  refused[#refused + 1] = refused[#refused - 1]
end
try('PUBLISH', ARGV[1], '')
-- They come last: older servers let nobody write behind them.
try('INFO', 'server')
try('PUBSUB', 'CHANNELS', ARGV[1])
try('SCAN', 0, 'COUNT', 1)
return refused
