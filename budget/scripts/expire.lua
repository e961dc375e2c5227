-- Nobody knows what the call cost: charge the whole reservation, until a settle, a release or a person knows
-- better. Idempotent.
--
-- KEYS, ARGV, reply  as in checks.lua and close.lua; ARGV[1] is 0
if held[2] == 'open' then
    return close('expired', held[1])
end
return {held[2], held[3]}
