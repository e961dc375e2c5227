-- The call cost ARGV[1]: charge that instead of the reservation. A reservation that had expired is corrected.
-- Idempotent: one that is settled or released answers what stands and writes nothing.
--
-- KEYS, ARGV, reply  as in checks.lua and close.lua
if held[2] == 'open' or held[2] == 'expired' then
    return close('settled', ARGV[1])
end
return {held[2], held[3]}
