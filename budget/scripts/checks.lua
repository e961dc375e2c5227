-- Goes before each script: reads all keys of the call and refuses what cannot be right, before anything is
-- written (a script that fails half way is not rolled back). Amounts are nano-USD, as digits.
--
-- KEYS[1]    the marker, a hash {server, zone, version, daily, monthly, user}: absent means that the counters cannot
--            be trusted (empty or restarted Redis); the last three are limits that were set while running
-- KEYS[2]    the reservation, a hash {amount, state, charged, scopes}
-- KEYS[3]    reservations whose outcome may still come, a sorted set (score: when to ask SQL about it, seconds since
--            1970): open ones at the end of their lease, expired ones every hour for as long as they are kept
-- KEYS[4]    the breaker of the model, see breaker.lua
-- KEYS[5..]  the scopes, hashes {spent, reserved}
-- Reply      {"cold"}, or an error
local MAX = 9007199254740991 -- 2^53 - 1: the largest integer that Lua holds exactly

local function is_amount(text)
    return string.match(text, '^%d+$') and #text <= 16 and tonumber(text) <= MAX
end

-- 64 bits hold a counter of 17 digits plus any amount
local function is_counter(text)
    return not text or (string.match(text, '^%d+$') and #text <= 17)
end

local function spoilt(key)
    return redis.error_reply('SPOILT ' .. key .. ' is not what the ledger wrote')
end

local marker = redis.pcall('HMGET', KEYS[1], 'server', 'zone', 'daily', 'monthly', 'user')
local held = redis.pcall('HMGET', KEYS[2], 'amount', 'state', 'charged', 'scopes')
local lease = redis.pcall('ZSCORE', KEYS[3], KEYS[2])
for i, found in ipairs({marker, held, lease}) do
    if type(found) == 'table' and found.err then
        return spoilt(KEYS[i])
    end
end
local counters = {}
for i = 5, #KEYS do
    counters[i] = redis.pcall('HMGET', KEYS[i], 'spent', 'reserved')
    if counters[i].err or not (is_counter(counters[i][1]) and is_counter(counters[i][2])) then
        return spoilt(KEYS[i])
    end
end
if not is_amount(ARGV[1]) then
    return redis.error_reply('BADARG ARGV[1] is no amount in nano-USD')
end
if not marker[1] then
    return {'cold'}
end
