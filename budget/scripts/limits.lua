-- Take over the limits that were set by hand; those not named are the environment's again. An older version than the
-- one that holds changes nothing, and a cold ledger is left alone: its rebuild takes them over.
--
-- KEYS[1]    the marker, as in checks.lua
-- ARGV[1]    version: how many changes of limits there have been
-- ARGV[2..]  name of scope and limit in nano-USD, in pairs; the last one is as in checks.lua
local marker = redis.call('HMGET', KEYS[1], 'server', 'version')
if marker[1] ~= ARGV[#ARGV] or tonumber(marker[2]) > tonumber(ARGV[1]) then
    return
end
redis.call('HDEL', KEYS[1], 'daily', 'monthly', 'user')
redis.call('HSET', KEYS[1], 'version', unpack(ARGV, 1, #ARGV - 1))
