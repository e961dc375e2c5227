-- Goes before each script. All keys of a call are what they should be before anything is written: a script that
-- fails half way is not rolled back. KEYS as in reserve.lua and settle.lua.
local MAX = 9007199254740991

local function is_amount(text)
    return string.match(text, '^%d+$') and tonumber(text) <= MAX
end

-- The first key of another type than it should have, or whose counters are no integers.
local function spoilt()
    for i = 2, #KEYS do
        local kind = redis.call('TYPE', KEYS[i]).ok
        if kind ~= 'none' and kind ~= (i == 3 and 'zset' or 'hash') then
            return KEYS[i]
        end
        if i > 3 then
            for _, held in ipairs(redis.call('HMGET', KEYS[i], 'spent', 'reserved')) do
                if held and not string.match(held, '^%-?%d+$') then
                    return KEYS[i]
                end
            end
        end
    end
end

if not is_amount(ARGV[1]) then
    return redis.error_reply('BADARG ARGV[1] is no amount in nano-USD')
end
local bad = spoilt()
if bad then
    return redis.error_reply('WRONGTYPE ' .. bad)
end
if redis.call('EXISTS', KEYS[1]) == 0 then
    return {'cold'}
end
