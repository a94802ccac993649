-- Take the lock away from holders whom nobody can ask to give it up, as an administrator wants it: hosts that are gone, and
-- processes that do not use sidelock. What is not as it was seen stays, and so does what a later format tells of; whoever waits
-- gets the lock as after a release, in an open epoch.
--
-- ARGV[11]  a token: only the holder to whom it was given; '' for all that are named
-- ARGV[12…] who was seen to hold it: "<host>/<instance>:<attempt>:<first token>", or the whole value of a foreign holder
--
-- Returns, for each that was taken, {what was seen, ms until its lease or key would have ended}; -1 where it never would
-- have.
if other then return other end
local token = tonumber(ARGV[11])
local seen = {}
for i = 12, #ARGV do seen[ARGV[i]] = true end

-- What a daemon of a later release holds nobody takes who cannot read how.
local format = tonumber(string.match(type(value) == 'string' and value or '', '^sidelock(%d+);') or 0)

local ttl = redis.call('PTTL', lock)
local kept, taken = {}, {}
if mode == 'foreign' and format <= 1 and seen[value] and not token then taken[1] = { value, ttl } end
for _, holder in ipairs(holders) do
  local entry = holder.instance .. ':' .. holder.attempt .. ':' .. holder.token
  local first = tonumber(holder.token)
  if seen[entry] and (not token or (first <= token and token < first + holder.tokens)) then
    taken[#taken + 1] = { entry, ttl >= 0 and holder.ends and holder.ends - now_ms() or ttl }
  else
    kept[#kept + 1] = holder
  end
end
if #taken == 0 then return taken end
holders = kept
if #holders == 0 then mode, more = nil, nil end

-- A full Redis refuses many commands until a script has written something; what comes first here is not among them.
redis.call('LREM', queue, 0, '')
local _, anybody
if is_open and waiting > 0 then _, anybody = pass_on() end
if not anybody then
  -- The former holder may go on under a token of its block, so the counter is written before the lock is free. Where
  -- nobody has it then, the counter stands above the block as if somebody had had it since: its host must not find that it
  -- may reclaim the lease.
  if counter > 0 then count_to(#holders == 0 and counter + 1 or counter) end
  if #holders == 0 then redis.call('DEL', lock) else write_holders(lock, mode, holders, more) end
end
return taken
