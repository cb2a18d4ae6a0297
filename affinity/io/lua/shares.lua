-- The tenants' shares, all at once.
--
-- KEYS    1 shares (hash)
-- ARGV    tenant, share, ...
-- RETURN  how many
-- TWICE   The same shares again.

redis.call('DEL', KEYS[1])
if #ARGV > 0 then redis.call('HSET', KEYS[1], unpack(ARGV)) end
return #ARGV / 2
