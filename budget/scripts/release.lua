-- The call was never billed: give the reservation back. One that had expired is corrected. Idempotent, as settle.
--
-- KEYS, ARGV, reply  as in checks.lua and close.lua; ARGV[1] is 0
if held[2] == 'open' or held[2] == 'expired' then
    return close('released', '0')
end
return {held[2], held[3]}
