-- Everything that a comparison with SQL needs, at one moment; writes nothing.
--
-- KEYS[1]    the marker, as in checks.lua
-- KEYS[2]    reservations whose outcome may still come, a sorted set
-- KEYS[3..]  counters and reservations to look at
-- ARGV[1]    how many of these are counters
-- Reply      {the marker's server or "", counters as {spent, reserved}, all reservations as
--            {key, state, amount, charged, scopes}}; what there is not is an empty text
local counters, reservations, seen = {}, {}, {}

local function texts(key, ...)
    local found = redis.call('HMGET', key, ...)
    for i = 1, #found do
        found[i] = found[i] or ''
    end
    return found
end

local function look(key)
    if not seen[key] then
        seen[key] = true
        local held = texts(key, 'state', 'amount', 'charged', 'scopes')
        reservations[#reservations + 1] = {key, held[1], held[2], held[3], held[4]}
    end
end

for i = 3, #KEYS do
    if i < 3 + tonumber(ARGV[1]) then
        counters[#counters + 1] = texts(KEYS[i], 'spent', 'reserved')
    else
        look(KEYS[i])
    end
end
for _, key in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
    look(key)
end
return {redis.call('HGET', KEYS[1], 'server') or '', counters, reservations}
