-- Take over the limits that were set by hand; those not named are the environment's again. An older version than the
-- one that holds changes nothing, and a cold ledger is left alone: its rebuild takes them over.
--
-- KEYS[1]    the marker, as in checks.lua
-- ARGV[1]    version: how many changes of limits there have been
-- ARGV[2..]  name of scope and limit in nano-USD, in pairs
local version = redis.call('HGET', KEYS[1], 'version')
if not version or tonumber(version) > tonumber(ARGV[1]) then
    return
end
redis.call('HDEL', KEYS[1], 'daily', 'monthly', 'user')
redis.call('HSET', KEYS[1], 'version', unpack(ARGV))
