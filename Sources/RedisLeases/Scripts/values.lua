-- What stands in a lock's key and in its queue; it is put before the other scripts.
--
-- The lock's key is a plain string, there if and only if somebody holds the lock, always with a TTL:
--   sidelock1;<mode>;<holder>[;<holder>…]
-- A mode is x (one host alone), s (hosts that share it), or p<N> (a semaphore of N permits). A holder is
--   <host>/<instance>:<attempt>:<first token>                    in x: its lease ends with the key
--   <host>/<instance>:<attempt>:<first token>:<tokens>:<end>     in s and p<N>
-- where <tokens> is how many are reserved, <end> a time in ms by Redis' clock, and the key ends with the last of them.
-- All holders stand in this one value, so all of them share its fate. Anything else is a foreign holder.
--
-- An entry of the queue is "1;<host>/<instance>:<attempt>:<lease ms>:<mode>".
--
-- Each of them begins with its format, 1. A later release may put more fields behind those of a holder, of an entry and of
-- the mode, each after a colon; they are passed over, and written again where a value is. protocol/formats.md has the
-- rules for whoever changes any of this, or a message; Sources/RedisLeases and protocol/README.md change with it.

local time

-- Redis' own TIME: seconds and microseconds.
local function clock()
  if not time then
    local now = redis.call('TIME')
    time = { tonumber(now[1]), tonumber(now[2]) }
  end
  return time
end

local function now_ms()
  local now = clock()
  return now[1] * 1000 + math.floor(now[2] / 1000)
end

-- A number as digits, whatever its size.
local function digits(number)
  return string.format('%.0f', number)
end

-- Whether a reply of redis.pcall is an error other than WRONGTYPE; older servers put words before that.
local function is_refusal(reply)
  return type(reply) == 'table' and reply.err ~= nil and not string.find(reply.err, 'WRONGTYPE', 1, true)
end

-- The reply to a command that met other data than a lock has in this key, for LeaseFailure+Redis.swift: which key, and
-- what stands there, or - where this user may not know; any other error as it is; nil for none.
local function other_data(part, key, reply)
  if type(reply) ~= 'table' or not reply.err then return nil end
  if is_refusal(reply) then return reply end
  local found = redis.pcall('TYPE', key)
  return { err = 'WRONGTYPE ' .. part .. ' ' .. (found.ok or '-') }
end

-- Whether the epoch that stands in Redis is the one whose value begins with `open` when it is open, which ends with
-- "o;": whether it is open, and whether it is in its grace. Nothing is granted in any other case. See confirm_epoch.lua.
local function stage_of(stands, open)
  if type(stands) ~= 'string' then return false, false end
  local begin = string.sub(stands, 1, #open)
  return begin == open, begin == string.sub(open, 1, -3) .. 'g;'
end

-- The floor of tokens of the epoch that stands there and is open. A host that has not asked since may know a lower one: others
-- handed theirs over in the grace.
local function floor_of(stands, open)
  return tonumber(string.match(stands, '^[^;]*;%d+;%d+;%d+;(%d+)', #open + 1)) or 0
end

-- Whether `instance` has not said for so long that it is alive that all it has is over by its own clock: see confirm_epoch.lua.
-- Nobody is dead of whom nothing is known; then each of its leases ends by itself.
local dead = {}
local function is_dead(epoch_key, instance)
  if dead[instance] == nil then
    local value = redis.pcall('GET', epoch_key .. ':' .. instance)
    local ends = tonumber(string.match(type(value) == 'string' and value or '', '^1;(%d+)'))
    dead[instance] = ends ~= nil and ends <= now_ms()
  end
  return dead[instance]
end

local function is_mode(word) return word == 'x' or word == 's' or string.find(word, '^p%d+$') ~= nil end

-- Whether a text is empty, or fields that a later release has appended.
local function are_more(text) return text == '' or string.sub(text, 1, 1) == ':' end

-- Who waits by an entry of the queue: instance, attempt, lease, mode; nothing for what no sidelock host wrote. A later
-- format begins alike, as far as the lease, and has the mode ?, which nobody can be given: its own host takes the lock when
-- it is free.
local function waiter(entry)
  local format, instance, attempt, lease, rest = string.match(entry, '^(%d+);([%w._-]+/%x+):(%d+):(%d+)(.*)$')
  if not instance then return nil end
  if format ~= '1' then return instance, attempt, lease, '?' end
  local mode = string.match(rest, '^:([^:]*)')
  if not mode then return nil end
  return instance, attempt, lease, is_mode(mode) and mode or '?'
end

-- Who holds a lock by its value: a mode, a list of holders, and the fields of a later release behind the mode; 'foreign'
-- for what no sidelock host wrote, or a later format. Holders whose time is over do not count, and where all of them are
-- over nobody holds it: no mode.
local function holders_in(text)
  local mode, more, rest = string.match(text, '^sidelock1;(%w+)([^;]*);(.+)$')
  if not mode or not are_more(more) then return 'foreign', {} end
  local found = {}
  for entry in string.gmatch(rest, '[^;]+') do
    local instance, its_attempt, token, left = string.match(entry, '^([%w._-]+/%x+):(%d+):(%d+)(.*)$')
    local its_tokens, its_end
    if mode ~= 'x' then
      its_tokens, its_end, left = string.match(left or '', '^:(%d+):(%d+)(.*)$')
    end
    if not instance or not left or not are_more(left) then return 'foreign', {} end
    if mode == 'x' or tonumber(its_end) > now_ms() then
      found[#found + 1] = {
        instance = instance, attempt = its_attempt, token = token, tokens = tonumber(its_tokens or nil),
        ends = tonumber(its_end or nil), more = left }
    end
  end
  if mode == 'x' and #found ~= 1 or not is_mode(mode) then return 'foreign', {} end
  if #found == 0 then return nil, found end
  return mode, found, more
end

-- Whether a lease in `its_mode` can stand beside `holders`, who have the lock in `mode`.
local function can_join(mode, holders, its_mode)
  if its_mode == '?' then return false end
  if not mode then return true end
  if its_mode == 's' then return mode == 's' end
  return its_mode ~= 'x' and its_mode == mode and #holders < tonumber(string.sub(mode, 2))
end

-- Whether the host of `entry`, the first of `queue`, which does not fit, is gone: nobody receives a message to it (by
-- which it looks at this place first), or it has not looked at its place for as long as its lease, at least 10 s. Only
-- a host that keeps others out is asked this: holders may have the lock for hours, and a host that is gone never gets
-- its turn.
--
-- The suspect stands in a key of its own: since when, and which entry. A host that is there deletes it: see places.lua.
-- Nothing else needs this, so any refusal here means that nobody is gone.
local function is_gone(queue, entry, inbox, name)
  local instance, _, its_lease = waiter(entry)
  local receivers = redis.pcall('PUBLISH', inbox .. instance, '1;inuse 0;' .. name)
  if receivers == 0 then return true end
  local key = queue .. ':suspect'
  local word = redis.pcall('GET', key)
  local since, who = string.match(type(word) == 'string' and word or '', '^1;(%d+);(.+)$')
  local patience = math.max(tonumber(its_lease), 10000)
  if who == entry then return now_ms() - tonumber(since) > patience end
  redis.pcall('SET', key, '1;' .. digits(now_ms()) .. ';' .. entry, 'PX', 3 * patience)
  return false
end

-- The value of a lock with these holders. `more`: what holders_in gave beside them.
local function value_of(mode, list, more)
  local text = { 'sidelock1;' .. mode .. (more or '') }
  for _, holder in ipairs(list) do
    local share = mode == 'x' and '' or ':' .. digits(holder.tokens) .. ':' .. digits(holder.ends)
    text[#text + 1] = holder.instance .. ':' .. holder.attempt .. ':' .. holder.token .. share .. (holder.more or '')
  end
  return table.concat(text, ';')
end

-- Writes the holders of a shared lock; the key ends with the last of them.
local function write_holders(key, mode, list, more)
  local last = 0
  for _, holder in ipairs(list) do last = math.max(last, holder.ends) end
  redis.call('SET', key, value_of(mode, list, more), 'PX', digits(last - now_ms()))
end
