-- What stands in a lock's key and in its queue; it is put before the other scripts.
--
-- The lock's key is a plain string, there if and only if somebody holds the lock, always with a TTL:
--   <host>/<instance>:<attempt>:<first token>                          one host alone; its lease ends with the key
--   sidelock-shared;<host>/<instance>:<attempt>:<first token>:<tokens>:<end>;…   hosts that share it
--   sidelock-permits/<N>;…                                             the same for a semaphore of N permits
-- where <tokens> is how many are reserved, <end> a time in ms by Redis' clock, and the key ends with the last of them.
-- All holders stand in this one value, so that whatever becomes of the key becomes of all of them alike. Anything else is
-- a foreign holder.
--
-- An entry of the queue is "<host>/<instance>:<attempt>:<lease ms>:<mode>"; a mode is x, s, or p<N>.
--
-- Who changes what stands in these keys or in a message changes Sources/RedisLeases and the section on Redis in
-- protocol/README.md with it.

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

-- Whether a reply of redis.pcall is an error other than that the key holds something else; older servers put words before
-- that.
local function is_refusal(reply)
  return type(reply) == 'table' and reply.err ~= nil and not string.find(reply.err, 'WRONGTYPE', 1, true)
end

-- The reply to a command that met other data than a lock has in this key, for RedisErrorReply.swift: which key, and what
-- stands there, or - where this user may not know; any other error as it is; nil for none.
local function other_data(part, key, reply)
  if type(reply) ~= 'table' or not reply.err then return nil end
  if is_refusal(reply) then return reply end
  local found = redis.pcall('TYPE', key)
  return { err = 'WRONGTYPE ' .. part .. ' ' .. (found.ok or '-') }
end

-- Who waits by an entry of the queue: instance, attempt, lease, mode; nothing for what no sidelock host wrote.
local function waiter(entry)
  local instance, attempt, lease, mode = string.match(entry, '^([%w._-]+/%x+):(%d+):(%d+):(%w+)$')
  if mode == 'x' or mode == 's' or (mode and string.find(mode, '^p%d+$')) then return instance, attempt, lease, mode end
end

-- Who holds a lock by its value: a mode and a list of holders; 'foreign' for what no sidelock host wrote. Holders whose
-- time is over do not count, and where all of them are over nobody holds it: no mode.
local function holders_in(text)
  local instance, its_attempt, token = string.match(text, '^([%w._-]+/%x+):(%d+):(%d+)$')
  if instance then return 'x', { { instance = instance, attempt = its_attempt, token = token } } end
  local mode, rest = 's', string.match(text, '^sidelock%-shared;(.+)$')
  if not rest then
    local capacity
    capacity, rest = string.match(text, '^sidelock%-permits/(%d+);(.+)$')
    if not rest then return 'foreign', {} end
    mode = 'p' .. capacity
  end
  local found, now = {}, now_ms()
  for entry in string.gmatch(rest, '[^;]+') do
    local its_tokens, its_end
    instance, its_attempt, token, its_tokens, its_end =
      string.match(entry, '^([%w._-]+/%x+):(%d+):(%d+):(%d+):(%d+)$')
    if not instance then return 'foreign', {} end
    its_end = tonumber(its_end)
    if its_end > now then
      found[#found + 1] = {
        instance = instance, attempt = its_attempt, token = token, tokens = tonumber(its_tokens), ends = its_end }
    end
  end
  if #found == 0 then return nil, found end
  return mode, found
end

-- Whether a lease in `its_mode` can stand beside `holders`, who have the lock in `mode`.
local function can_join(mode, holders, its_mode)
  if not mode then return true end
  if its_mode == 's' then return mode == 's' end
  return its_mode ~= 'x' and its_mode == mode and #holders < tonumber(string.sub(mode, 2))
end

-- Whether the host is gone whose `entry` is the first of `queue`, and does not fit: nobody hears what is said to it (a
-- message by which it looks at this place first), or it has not looked at its place for as long as its lease. That is
-- asked of whoever keeps others from coming in: those who hold the lock may do so for hours, and one who is gone never
-- gets his turn.
--
-- Who is suspected stands in a key of its own, since when and by which entry. A host that is there takes that back: see
-- places.lua. None of this is needed for anything else, so whatever is refused here means that nobody is gone.
local function is_gone(queue, entry, inbox, name)
  local instance, _, its_lease = waiter(entry)
  local receivers = redis.pcall('PUBLISH', inbox .. instance, 'inuse 0 ' .. name)
  if receivers == 0 then return true end
  local key = queue .. ':suspect'
  local word = redis.pcall('GET', key)
  local since, who = string.match(type(word) == 'string' and word or '', '^(%d+) (.+)$')
  local patience = math.max(tonumber(its_lease), 10000)
  if who == entry then return now_ms() - tonumber(since) > patience end
  redis.pcall('SET', key, digits(now_ms()) .. ' ' .. entry, 'PX', 3 * patience)
  return false
end

-- Writes who shares a lock, and has the key end with the last of them.
local function write_holders(key, mode, list)
  local text, last = { mode == 's' and 'sidelock-shared' or 'sidelock-permits/' .. string.sub(mode, 2) }, 0
  for _, holder in ipairs(list) do
    text[#text + 1] = holder.instance .. ':' .. holder.attempt .. ':' .. holder.token .. ':'
      .. digits(holder.tokens) .. ':' .. digits(holder.ends)
    last = math.max(last, holder.ends)
  end
  redis.call('SET', key, table.concat(text, ';'), 'PX', digits(last - now_ms()))
end
