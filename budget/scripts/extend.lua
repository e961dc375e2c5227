-- The call is still under way: make the lease of its reservation new. Idempotent.
--
-- KEYS     as in checks.lua
-- ARGV[1]  lease from now, seconds
-- Reply    {state} | {"absent"} | {"cold"}
if held[2] == 'open' then
    redis.call('ZADD', KEYS[3], tonumber(redis.call('TIME')[1]) + tonumber(ARGV[1]), KEYS[2])
end
return {held[2] or 'absent'}
