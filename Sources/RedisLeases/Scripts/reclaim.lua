-- Have each lease that this host has in Redis as well: where it is gone, or where the data set is an older one and tells of
-- something else. It does nothing but in the epoch that this host knows.
--
-- KEYS     for each lease the lock's key, its queue's and its fence's
-- ARGV[1]  this host's "<host>/<instance>"
-- ARGV[2]  the lease in milliseconds
-- ARGV[3]  the key of the epoch
-- ARGV[4]  what it begins with: see common.lua
-- ARGV[5]  how many tokens an exclusive lease reserves
-- ARGV[6]  how long a counter is kept once the clock has reached it, in milliseconds
-- ARGV     and for each lease: the attempt under which it was taken, its mode, its first token, how many tokens it has, and 1
--          when it may take the place of what stands there. That holds only in the grace of the epoch, in which nothing is
--          granted: whoever stands there, and is not found again there later, is of the older data set.
--
-- Returns, for each lease, 1 when this host has it now and 0 when it has lost it; or {'other_epoch'}.
local me, lease, token_count, fence_margin = ARGV[1], ARGV[2], tonumber(ARGV[5]), tonumber(ARGV[6])

local stands = redis.pcall('GET', ARGV[3])
if is_refusal(stands) then return stands end
local is_open, is_grace = stage_of(stands, ARGV[4])
if not is_open and not is_grace then return { 'other_epoch' } end

local leases, last_of_mine = {}, {}
for i = 1, #KEYS / 3 do
  local at = 6 + 5 * (i - 1)
  local first, tokens = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  local one = {
    lock = KEYS[3 * i - 2], queue = KEYS[3 * i - 1], fence = KEYS[3 * i], attempt = ARGV[at + 1], mode = ARGV[at + 2],
    first = first, tokens = tokens, may_replace = is_grace and ARGV[at + 5] == '1' }
  leases[i] = one
  last_of_mine[one.lock] = math.max(last_of_mine[one.lock] or 0, first + tokens - 1)
end

-- What stands in the keys of `one`; or a refusal.
local function found_at(one)
  local value, fenced = redis.pcall('GET', one.lock), redis.pcall('GET', one.fence)
  -- It changes nothing; a full Redis refuses to write a value before it.
  local tried = redis.pcall('LPOP', one.queue, 0)
  for _, reply in ipairs({ value or '', fenced or '', tried or '' }) do
    if is_refusal(reply) then return reply end
  end
  local found = { holders = {}, counter = 0 }
  if type(value) == 'string' then found.mode, found.holders, found.more = holders_in(value) end
  -- Data of others stay as they are, and nobody loses a lease for those in the fence or the queue.
  if type(value) == 'table' then found.mode = 'foreign' end
  found.has_fence, found.has_queue = type(fenced) ~= 'table', type(tried) ~= 'table' or not tried.err
  if found.has_fence then found.counter = tonumber(fenced or 0) or 0 end
  for _, holder in ipairs(found.holders) do
    found.counter = math.max(found.counter, tonumber(holder.token) + (holder.tokens or token_count) - 1)
  end
  return found
end

-- Who waits under an attempt that has the lock would be given it once more.
local function leave_queue(one)
  for _, entry in ipairs(redis.call('LRANGE', one.queue, 0, -1)) do
    local instance, its_attempt = waiter(entry)
    if instance == me and its_attempt == one.attempt then redis.call('LREM', one.queue, 0, entry) end
  end
end

-- Who has the lock beside this lease from now on, and this lease as it stands there; nil where it is lost.
local function those_beside(one, found)
  local others, mine = {}, nil
  for _, holder in ipairs(found.holders) do
    if holder.instance == me and holder.attempt == one.attempt then mine = holder else others[#others + 1] = holder end
  end
  if found.mode == 'foreign' then return nil end
  if one.may_replace then
    if one.mode == 'x' or found.mode ~= one.mode then others = {} end
    -- Who is found there comes first, and who has taken a permit again last: what is too much is of the older data set.
    local permits = tonumber(string.match(one.mode, '^p(%d+)$'))
    while permits and #others >= permits do table.remove(others, 1) end
    return others, mine
  end
  -- It may have become a shared one in a way that is not to be seen here.
  if mine and (found.mode == one.mode or found.mode == 'x' and one.mode == 's') then return others, mine end
  if mine then return nil end
  -- Nobody was granted it since: that would have taken the counter above this host's tokens.
  if not found.mode then return found.counter <= last_of_mine[one.lock] and others or nil end
  -- Those who share it in an epoch that is open may have taken it after somebody who had it alone.
  if one.mode == 's' and is_open then
    for _, holder in ipairs(others) do
      if holder.instance ~= me then return nil end
    end
    if found.counter > last_of_mine[one.lock] then return nil end
  end
  return can_join(found.mode, found.holders, one.mode) and others or nil
end

local function reclaim(one)
  local found = found_at(one)
  if found.err then return found end
  local holders, mine = those_beside(one, found)
  if not holders then return 0 end
  if found.has_queue then leave_queue(one) end
  local holder = {
    instance = me, attempt = one.attempt, token = digits(one.first), tokens = one.tokens,
    ends = now_ms() + tonumber(lease), more = mine and mine.more }
  -- More tokens were reserved, and the reply has not come: this host gets to know them when it asks for more.
  if mine and tonumber(mine.token) > one.first then
    holder.token, holder.tokens = mine.token, mine.tokens or token_count
  end
  holders[#holders + 1] = holder
  local more = found.mode == one.mode and found.more or nil
  if one.mode == 'x' then
    redis.call('SET', one.lock, value_of(one.mode, holders, more), 'PX', lease)
  else
    write_holders(one.lock, one.mode, holders, more)
  end
  if found.has_fence then
    local counter = math.max(found.counter, tonumber(holder.token) + holder.tokens - 1)
    -- See count_to in common.lua.
    local kept = math.max(1, math.ceil(counter / 1000) - now_ms() + fence_margin)
    redis.call('SET', one.fence, digits(counter), 'PX', digits(kept))
  end
  return 1
end

local reclaimed = {}
for i, one in ipairs(leases) do
  reclaimed[i] = reclaim(one)
  if type(reclaimed[i]) == 'table' then return reclaimed[i] end
end
return reclaimed
