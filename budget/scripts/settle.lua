-- Turn a reservation into what the call really cost (0 releases it). Idempotent: a second call writes
-- nothing and answers what was charged. An absent reservation is left alone: the counters were rebuilt from
-- SQL after this call's outcome had been written there, so they hold it already.
--
-- KEYS[1]    warm marker
-- KEYS[2]    the reservation, a hash {amount, state, charged}
-- KEYS[3]    open reservations, a sorted set
-- KEYS[4..]  the scopes that the reservation took, hashes {spent, reserved} in nano-USD
-- ARGV[1]    actual cost, nano-USD, digits
-- ARGV[2]    seconds to keep the settled reservation
-- Reply      {"settled", charged} | {"absent"} | {"cold"}
local held = redis.call('HMGET', KEYS[2], 'amount', 'state', 'charged')
if not held[2] then
    return {'absent'}
end
if held[2] == 'settled' then
    return {'settled', held[3]}
end

for i = 4, #KEYS do
    redis.call('HINCRBY', KEYS[i], 'reserved', '-' .. held[1])
    redis.call('HINCRBY', KEYS[i], 'spent', ARGV[1])
end
redis.call('HSET', KEYS[2], 'state', 'settled', 'charged', ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[2])
redis.call('ZREM', KEYS[3], KEYS[2])
return {'settled', ARGV[1]}
