-- Goes between breaker.lua and the scripts that end a reservation: settle, release, expire, correct.
--
-- ARGV[2]     seconds to keep the reservation, so that it answers replays and can be corrected
-- ARGV[3..8]  what the call says of its model: the parameters of tell_breaker
-- Reply       {state, charged, the state that the breaker changed to or ""} | {"absent"} | {"cold"}
local LOOK_AGAIN_S = 3600

-- What has expired may be corrected in SQL without us being told: the sweeper asks there once in a while.
local function look_again(state)
    if state == 'expired' then
        redis.call('ZADD', KEYS[3], now + LOOK_AGAIN_S, KEYS[2])
    else
        redis.call('ZREM', KEYS[3], KEYS[2])
    end
end

-- The reservation ends as `state` and costs `charge`, whatever it held or had been charged before. A scope that
-- is gone by now is left alone: its period is long over, or it was rebuilt without this reservation.
local function close(state, charge)
    local was_open = held[2] == 'open'
    local change = tonumber(charge) - (was_open and 0 or tonumber(held[3]))
    local reserved_in, paying, seen = '\n' .. held[4] .. '\n', {}, {}
    for i = 5, #KEYS do
        if not seen[KEYS[i]] and string.find(reserved_in, '\n' .. KEYS[i] .. '\n', 1, true) then
            local exists = counters[i][1] or counters[i][2]
            local spent, reserved = tonumber(counters[i][1] or '0'), tonumber(counters[i][2] or '0')
            if exists and (spent + change < 0 or was_open and reserved < tonumber(held[1])) then
                return spoilt(KEYS[i])
            end
            paying[#paying + 1] = exists and KEYS[i]
            seen[KEYS[i]] = true
        end
    end
    local _, newlines = string.gsub(held[4], '\n', '')
    if #paying ~= newlines + 1 then
        return redis.error_reply('BADARG the scopes are not those that were reserved')
    end
    local difference = string.format('%.0f', change)
    for _, key in ipairs(paying) do
        if key then
            if was_open and held[1] ~= '0' then -- '-0' is no integer
                redis.call('HINCRBY', key, 'reserved', '-' .. held[1])
            end
            redis.call('HINCRBY', key, 'spent', difference)
        end
    end
    redis.call('HSET', KEYS[2], 'state', state, 'charged', charge)
    redis.call('EXPIRE', KEYS[2], ARGV[2])
    look_again(state)
    return {state, charge, was_open and tell_breaker(unpack(ARGV, 3)) or ''}
end

-- The counters were rebuilt from SQL after this call's outcome had been written there, so they hold it already.
if not held[2] then
    return {'absent'}
end
if lease and held[2] ~= 'open' then
    look_again(held[2])
end
