-- Goes between checks.lua and the scripts that ask or tell the breaker of a model.
--
-- KEYS[4]  the breaker, a hash: {state, until, probe} while it is open or half open, and the calls of its window, in
--          {ok<n>, bad<n>}, n counting stretches of BUCKET_S. Absent: closed.
-- open       no call until `until`; the next one after that is the probe
-- half_open  the probe decides: until then, and at most until `until`, no other call
local BUCKET_S = 5

local now = tonumber(redis.call('TIME')[1])
local breaker = redis.pcall('HMGET', KEYS[4], 'state', 'until', 'probe')
if breaker.err then
    return spoilt(KEYS[4])
end

local function open_breaker(seconds)
    local till = string.format('%.0f', now + tonumber(seconds))
    redis.call('DEL', KEYS[4])
    redis.call('HSET', KEYS[4], 'state', 'open', 'until', till)
    redis.call('EXPIREAT', KEYS[4], tonumber(till) + 86400)
    return 'open'
end

-- Count a call as 'ok' or 'bad'; open the breaker if at least `min_calls` of the last `window` seconds are known and
-- `percent` of them were bad.
local function count_call(verdict, window, min_calls, percent, cooldown)
    local bucket = math.floor(now / BUCKET_S)
    local is_new = redis.call('HINCRBY', KEYS[4], verdict .. bucket, 1) == 1
    redis.call('EXPIRE', KEYS[4], 2 * tonumber(window) + BUCKET_S)
    if verdict == 'ok' and not is_new then
        return
    end
    -- with each new stretch, too, so that there are never more fields than the window has
    local sums = {ok = 0, bad = 0}
    local fields = redis.call('HGETALL', KEYS[4])
    for i = 1, #fields, 2 do
        local kind, n = string.match(fields[i], '^(%l+)(%d+)$')
        if tonumber(n) * BUCKET_S < now - tonumber(window) then
            redis.call('HDEL', KEYS[4], fields[i])
        else
            sums[kind] = sums[kind] + tonumber(fields[i + 1])
        end
    end
    local calls = sums.ok + sums.bad
    if verdict == 'bad' and calls >= tonumber(min_calls) and 100 * sums.bad >= tonumber(percent) * calls then
        return open_breaker(cooldown)
    end
end

-- What an ended call says of its model: 'ok', 'bad', or '' where it says nothing. A provider that said when to come
-- back (`closed_for` > 0 seconds) is taken at its word. Returns the state that the breaker changed to, if it did.
local function tell_breaker(verdict, closed_for, window, min_calls, percent, cooldown)
    local is_probe = breaker[3] == KEYS[2]
    if verdict == '' then
        if is_probe then
            redis.call('HDEL', KEYS[4], 'probe')
        end
    elseif verdict == 'ok' and is_probe then
        redis.call('DEL', KEYS[4])
        return 'closed'
    elseif verdict == 'bad' and (is_probe or not breaker[1]) and tonumber(closed_for) > 0 then
        return open_breaker(closed_for)
    elseif verdict == 'bad' and is_probe then
        return open_breaker(cooldown)
    elseif not breaker[1] then
        return count_call(verdict, window, min_calls, percent, cooldown)
    end
end
