-- Goes between checks.lua and the scripts that end a reservation: settle, release, expire, correct.
-- ARGV[2] seconds to keep the reservation, so that it answers replays and can be corrected.

-- The reservation ends as `state` and costs `charge`, whatever it held or had been charged before. A scope that
-- is gone by now is left alone: its period is long over, or it was rebuilt without this reservation.
local function close(state, charge)
    local was_open = held[2] == 'open'
    local change = tonumber(charge) - (was_open and 0 or tonumber(held[3]))
    local paying = {}
    for i = 4, #KEYS do
        if string.find('\n' .. held[4] .. '\n', '\n' .. KEYS[i] .. '\n', 1, true) then
            local spent, reserved = counters[i][1], counters[i][2]
            paying[#paying + 1] = (spent or reserved) and KEYS[i]
            if (was_open and reserved and tonumber(reserved) < tonumber(held[1]))
                or tonumber(spent or '0') + change < 0 then
                return spoilt(KEYS[i])
            end
        end
    end
    local _, newlines = string.gsub(held[4], '\n', '')
    if #paying ~= newlines + 1 then
        return redis.error_reply('BADARG the scopes are not those that were reserved')
    end
    for _, key in ipairs(paying) do
        if key then
            if was_open then
                redis.call('HINCRBY', key, 'reserved', '-' .. held[1])
            end
            redis.call('HINCRBY', key, 'spent', string.format('%.0f', change))
        end
    end
    redis.call('HSET', KEYS[2], 'state', state, 'charged', charge)
    redis.call('EXPIRE', KEYS[2], ARGV[2])
    redis.call('ZREM', KEYS[3], KEYS[2])
    return {state, charge}
end

-- Over already, but the rebuild could not know that nobody need ask SQL about it any more.
if lease and held[2] and held[2] ~= 'open' then
    redis.call('ZREM', KEYS[3], KEYS[2])
end
-- The counters were rebuilt from SQL after this call's outcome had been written there, so they hold it already.
if not held[2] then
    return {'absent'}
end
