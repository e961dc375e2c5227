-- Reserve the worst case of one call in every scope, or say which scope has no room. Nothing is written
-- unless all scopes have room. Idempotent by reservation: a second call writes nothing and answers the same.
--
-- KEYS       as in checks.lua
-- ARGV[1]    amount, nano-USD
-- ARGV[2]    time zone of the budget
-- ARGV[3,4]  start (inclusive) and end (exclusive) of the day that pays, seconds since 1970
-- ARGV[5]    lease, seconds
-- ARGV[6]    until when an open reservation is kept, seconds since 1970
-- ARGV[7]    how long a probe of the breaker may take, seconds
-- ARGV[8..]  for each scope: its name, its limit in nano-USD unless the marker holds one, its expiry in
--            seconds since 1970
-- Reply      {"reserved", amount, scopes, the state that the breaker changed to or ""}
--            | {state, charged} (this reservation is over) | {"cold"} | {"zone", the ledger's} | {"period", now}
--            | {"breaker", until}
--            | {"over", number of the scope from 1, spent, reserved, limit}
if held[2] == 'open' then
    return {'reserved', held[1], held[4], ''}
elseif held[2] then
    return {held[2], held[3]}
end
if marker[2] ~= ARGV[2] then
    return {'zone', marker[2] or ''}
end
if now < tonumber(ARGV[3]) or now >= tonumber(ARGV[4]) then
    return {'period', tostring(now)}
end

if (breaker[1] == 'open' or breaker[3]) and now < tonumber(breaker[2]) then
    return {'breaker', breaker[2]}
end

local set_limits = {daily = marker[3], monthly = marker[4], user = marker[5]}
for i = 5, #KEYS do
    local spent, reserved = counters[i][1] or '0', counters[i][2] or '0'
    local limit = set_limits[ARGV[3 * i - 7]] or ARGV[3 * i - 6]
    -- a limit of 0 blocks calls that cost nothing, too
    if limit == '0' or tonumber(spent) + tonumber(reserved) + tonumber(ARGV[1]) > tonumber(limit) then
        return {'over', tostring(i - 4), spent, reserved, limit}
    end
end

local scopes = table.concat(KEYS, '\n', 5)
for i = 5, #KEYS do
    redis.call('HINCRBY', KEYS[i], 'reserved', ARGV[1])
    if not counters[i][2] then
        redis.call('EXPIREAT', KEYS[i], ARGV[3 * i - 5])
    end
end
redis.call('HSET', KEYS[2], 'amount', ARGV[1], 'state', 'open', 'scopes', scopes)
redis.call('EXPIREAT', KEYS[2], ARGV[6])
redis.call('ZADD', KEYS[3], now + tonumber(ARGV[5]), KEYS[2])
if not breaker[1] then
    return {'reserved', ARGV[1], scopes, ''}
end
local till = string.format('%.0f', now + tonumber(ARGV[7]))
redis.call('HSET', KEYS[4], 'state', 'half_open', 'until', till, 'probe', KEYS[2])
return {'reserved', ARGV[1], scopes, 'half_open'}
