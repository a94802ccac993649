-- Which epoch this data set is in: confirm it, begin one where there is none that can be gone on with, or end its grace.
--
-- Redis can come back empty, or older, or be flushed, or hand its connections to another data set. In all of these cases
-- hosts have leases of which nothing is to be seen here, or of which something else is. So nothing is granted but in the epoch
-- that a host has confirmed, and an epoch begins with a grace: until everybody who had something has taken it again
-- (reclaim.lua), or must have lost it by his own clock.
--
-- The key is a plain string without a TTL. Nobody but this script writes it:
--   1;<number>:<host>/<instance>:<attempt>;<stage>;<run>;<since>;<grace>;<longest>;<floor>
-- where the number counts up, and host, instance and attempt are of who began it, so that no two epochs have the same name;
-- the stage is g (grace) or o (open); <run> is the server's run and the replication id of its last promotion, or - where INFO is not allowed; <since>
-- is a time in ms by Redis' clock, for people; <grace> is how long somebody who learns of the epoch has to wait before he may
-- open it, <longest> the longest lease of those who joined it, both in ms and never lowered; <floor> is the highest token
-- that anybody handed over with it. A later release may put more fields behind, each after a semicolon. They are written
-- again as long as the epoch goes on, and belong to none that follows it. See protocol/formats.md.
--
-- It is also the sign of life of the host that asks: others may take the host for dead from the moment on that stands in a
-- key of its own, and have what it has, however long its leases last. That key is the epoch's, ":" and "<host>/<instance>", and
-- no key means that nobody takes it for dead:
--   1;<when, in ms by Redis' clock>;<attempt>
-- A command that comes late changes nothing. Fields of a later release stand behind.
--
-- KEYS[1]  the key of the epoch
-- ARGV[1]  this host's "<host>/<instance>"
-- ARGV[2]  the name of the epoch that this host was in, without the format: "<number>:…"; '' for none
-- ARGV[3]  its number; 0 for none
-- ARGV[4]  a number above all that this host has used before, for the name of an epoch that begins
-- ARGV[5]  the longest lease of this host, in ms
-- ARGV[6]  the grace that this host knows to be needed, in ms
-- ARGV[7]  the highest token that this host knows of
-- ARGV[8]  what stands before the inboxes of all hosts
-- ARGV[9]  1 when this is the first command of its connection
-- ARGV[10] how long this host has waited in the grace of the epoch in ARGV[2], by its own clock, in ms; 0: it does not ask
--          for the end
-- ARGV[11] 1 when this host has never been in an epoch, and has no lease of an earlier process
-- ARGV[12] a token above all that may have been given in the epoch in ARGV[2], by its clock: that of an epoch that begins may
--          be behind
-- ARGV[13] how long after this the host is to be taken for dead, in ms; "never": not by this, from now on; "0": it has never
--          said when, and should the key tell something, it is "never"
--
-- Returns {'epoch', number, name, stage, grace, longest, floor, TIME in seconds, and its microseconds}.
local key, me, known, known_number = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local its_longest, its_grace, its_floor = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local is_first, waited, may_be_first = ARGV[9] == '1', tonumber(ARGV[10]), ARGV[11] == '1'

-- This write changes nothing. A replica refuses it, which makes the daemon connect anew, also where nothing has to be
-- written; and a full Redis refuses to write a value before it has carried out something of this kind.
local tried = redis.pcall('LPOP', key .. ':none', 0)
if is_refusal(tried) then return tried end

local value = redis.pcall('GET', key)
if is_refusal(value) then return value end

-- The number in `word`, below `limit`; nil where it is none.
local function below(limit, word)
  local number = tonumber(word)
  return number and number < limit and number or nil
end

-- The length of a lease or a grace. No setting allows for more than an hour.
local function milliseconds_in(word)
  local number = below(2 ^ 31, word)
  return number and math.min(number, 3600000)
end

-- The epoch in a value; nil for what nobody here wrote, or a later format, of which the second result is true.
local function epoch_in(text)
  local format, name, number, stage, rest = string.match(text, '^(%d+);((%d+):[%w._-]+/%x+:%d+);(%a+);(.*)$')
  if format ~= '1' then return nil, (tonumber(format) or 0) > 1 end
  local run, since, grace, longest, floor, more = string.match(rest, '^([%w_-]+);(%d+);(%d+);(%d+);(%d+)(.*)$')
  local epoch = {
    name = name, number = below(2 ^ 50, number), stage = stage, run = run, since = since,
    grace = milliseconds_in(grace), longest = milliseconds_in(longest), floor = below(2 ^ 53, floor), more = more }
  local is_known = run and (more == '' or string.sub(more, 1, 1) == ';') and (stage == 'g' or stage == 'o')
    and epoch.number and epoch.grace and epoch.longest and epoch.floor
  return is_known and epoch or nil, false
end

local epoch, is_later
if type(value) == 'string' then epoch, is_later = epoch_in(value) end
if value and not epoch then
  -- To begin an epoch over it would be to delete what somebody else has written.
  return { err = 'ERR ' .. key .. (is_later
    and ' is of a later release of sidelock, so nothing is granted: upgrade this one'
    or ' holds other data than the epoch of sidelock, so nothing is granted: delete that key') }
end

-- What INFO tells; nil where it is not allowed.
local function told(section, field)
  local info = redis.pcall('INFO', section)
  return type(info) == 'string' and string.match('\n' .. info, '\n' .. field .. ':([%w_-]+)') or nil
end

-- Which run of which server this is. A server that was made a replica and a primary again has the same run, may have other
-- data, and has two replication ids; one that was not has a second one of zeros, and changes its first one also where its
-- data stay: a first replica comes, or the last one has been gone for an hour.
local run, second = told('server', 'run_id'), told('replication', 'master_replid2')
if second and string.find(second, '[^0]') then second = told('replication', 'master_replid') end
run = run and run .. '-' .. (second or '') or '-'

-- Whether it is certain that the data are those that were there when the epoch was last confirmed. Where the run does not
-- show, they may be others on every new connection.
local is_same_run = epoch and (run ~= '-' and epoch.run == run or run == '-' and not is_first)

-- The inboxes of all hosts; nil where that may not be asked.
local function inboxes()
  local pattern = string.gsub(ARGV[8], '[%*%?%[%]\\]', '\\%0')
  local found = redis.pcall('PUBSUB', 'CHANNELS', pattern .. '*')
  return type(found) == 'table' and not found.err and found or nil
end

-- Whether another host is there, or may be.
local function is_anybody_there()
  for _, inbox in ipairs(inboxes() or { '' }) do
    if inbox ~= ARGV[8] .. me then return true end
  end
  return false
end

-- A later epoch that is open can be joined only on a new connection, on which its server is known. On one that stands it
-- belongs to data that were put in the place of the known ones, or this host has missed all of its grace.
local is_news = true
if is_same_run and (epoch.name == known
  or epoch.number > known_number and (is_first or epoch.stage == 'g')) then
  local stage, grace, longest = epoch.stage, epoch.grace, epoch.longest
  epoch.floor, epoch.longest = math.max(epoch.floor, its_floor), math.max(epoch.longest, its_longest)
  if epoch.stage == 'g' then
    -- Who began it may not have known the clock of the epoch before.
    if epoch.name ~= known then epoch.floor = math.max(epoch.floor, tonumber(ARGV[12])) end
    epoch.grace = math.max(epoch.grace, its_longest, its_grace)
    -- Whoever has a lease has it from a command before this epoch. This host has waited for longer than it can last.
    if epoch.name == known and waited > 0 and waited >= epoch.grace then epoch.stage = 'o' end
  end
  is_news = epoch.stage ~= stage or epoch.grace ~= grace or epoch.longest ~= longest
else
  local before = epoch or { number = 0, grace = 0, longest = 0, floor = 0 }
  -- Nobody can have anything where there has never been an epoch, and nobody is there.
  local is_free = not epoch and known_number == 0 and may_be_first and not is_anybody_there()
  local number = math.max(before.number, known_number) + 1
  epoch = {
    number = number, name = digits(number) .. ':' .. me .. ':' .. ARGV[4], stage = is_free and 'o' or 'g', run = run,
    since = digits(now_ms()), longest = its_longest, floor = math.max(before.floor, its_floor, tonumber(ARGV[12])), more = '',
    -- The grace of an epoch that did not come to its end covers those who had something before it.
    grace = math.max(its_longest, its_grace, before.longest, before.stage == 'g' and before.grace or 0) }
end

-- When this host is to be taken for dead; nil: what stands there stays. It counts on no more than this sign from when it was
-- sent, so that nothing of an earlier one has to be kept: that may have been deleted.
local function life_with(sign, stood)
  local never, ends, claim = 2 ^ 53 - 1, string.match(stood, '^1;(%d+);(%d+)')
  if tonumber(claim or 0) > tonumber(ARGV[4]) then return nil end
  if sign == '0' then return ends and tonumber(ends) < never and never or nil end
  return sign == 'never' and never or now_ms() + tonumber(sign)
end

local life = redis.pcall('GET', key .. ':' .. me)
if is_refusal(life) then return life end
local dies = life_with(ARGV[13], type(life) == 'string' and life or '')
if dies then
  -- As long as a lease of this host can be there.
  redis.call('SET', key .. ':' .. me, '1;' .. digits(dies) .. ';' .. ARGV[4], 'PX',
    digits(2 * its_longest + (tonumber(ARGV[13]) or 0)))
end

local now = table.concat({
  '1', epoch.name, epoch.stage, epoch.run, epoch.since, digits(epoch.grace), digits(epoch.longest), digits(epoch.floor),
}, ';') .. epoch.more
if now ~= value then redis.call('SET', key, now) end
-- Who begins the next epoch has to know how long leases are, also if this one is lost before he has asked for it: the
-- message is there before the loss.
for _, inbox in ipairs(is_news and inboxes() or {}) do
  if inbox ~= ARGV[8] .. me then redis.pcall('PUBLISH', inbox, '1;epoch ' .. digits(epoch.longest) .. ' ' .. epoch.name .. ';' .. key) end
end
return {
  'epoch', digits(epoch.number), epoch.name, epoch.stage, digits(epoch.grace), digits(epoch.longest),
  digits(epoch.floor), clock()[1], clock()[2] }
