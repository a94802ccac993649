-- Reserve another block of tokens for a lease that has nearly used its own up. Its end stays as it is, and so does everything
-- else; what is left of the block before is lost.
--
-- ARGV[11] one past the last token of the block that this host knows of. When that is not the end of its block, this
--          command came twice, and it gets to know the block that there is.
--
-- Returns {'granted', first token, token count, hosts in the queue}
--      or 0 where this host does not have the lease
--      or {'other_epoch'}: the same in another epoch, where it says nothing.
if other then return other end
for _, holder in ipairs(holders) do
  if holder.instance == me and holder.attempt == attempt then
    if tonumber(holder.token) + holder.tokens == tonumber(ARGV[11]) then
      local first = next_token()
      holder.token, holder.tokens = digits(first), block(mode, first)
      if mode == 'x' then
        redis.call('SET', lock, value_of(mode, holders, more), 'KEEPTTL')
      else
        write_holders(lock, mode, holders, more)
      end
      count_to(first + holder.tokens - 1)
    end
    return granted(holder)
  end
end
if not is_open and not is_grace then return elsewhere() end
return 0
