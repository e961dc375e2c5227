-- Reserve the worst case of one call in every scope, or say which scope has no room. Nothing is written
-- unless all scopes have room. Idempotent by reservation: a second call writes nothing and answers the same.
--
-- KEYS[1]    warm marker: absent means that the counters cannot be trusted (empty or restarted Redis)
-- KEYS[2]    the reservation, a hash {amount, state, charged, scopes}
-- KEYS[3]    open reservations, a sorted set (score: end of the lease, seconds)
-- KEYS[4..]  the scopes, hashes {spent, reserved} in nano-USD
-- ARGV[1]    amount, nano-USD, digits
-- ARGV[2,3]  start (inclusive) and end (exclusive) of the day that pays, seconds
-- ARGV[4]    lease, seconds
-- ARGV[5]    seconds to keep the reservation
-- ARGV[6..]  for each scope: its limit in nano-USD (-1: none), its expiry in seconds since 1970
-- Reply      {"reserved"} | {"settled"} (this reservation is over) | {"cold"} | {"period", now}
--            | {"over", number of the scope from 1, spent, reserved}
local state = redis.call('HGET', KEYS[2], 'state')
if state then
    return {state == 'open' and 'reserved' or 'settled'}
end
local now = tonumber(redis.call('TIME')[1])
if now < tonumber(ARGV[2]) or now >= tonumber(ARGV[3]) then
    return {'period', tostring(now)}
end

for i = 4, #KEYS do
    local held = redis.call('HMGET', KEYS[i], 'spent', 'reserved')
    local spent, reserved = tonumber(held[1] or '0'), tonumber(held[2] or '0')
    local limit = tonumber(ARGV[2 * i - 2])
    local sum = spent + reserved + tonumber(ARGV[1])
    if (limit >= 0 and sum > limit) or sum > MAX then
        return {'over', tostring(i - 3), held[1] or '0', held[2] or '0'}
    end
end

for i = 4, #KEYS do
    redis.call('HINCRBY', KEYS[i], 'reserved', ARGV[1])
    redis.call('EXPIREAT', KEYS[i], ARGV[2 * i - 1])
end
redis.call('HSET', KEYS[2], 'amount', ARGV[1], 'state', 'open', 'scopes', table.concat(KEYS, '\n', 4))
redis.call('EXPIRE', KEYS[2], ARGV[5])
redis.call('ZADD', KEYS[3], now + tonumber(ARGV[4]), KEYS[2])
return {'reserved'}
