-- A person knows what the call cost: charge ARGV[1] instead of what was charged. Idempotent, since it sets.
--
-- KEYS, ARGV  as in checks.lua and close.lua
-- Reply       {state, charged} | {"open"} (a call that is not over cannot be corrected) | {"absent"} | {"cold"}
if held[2] == 'open' then
    return {'open'}
end
return close('settled', ARGV[1])
