-- A person knows what the call cost: charge ARGV[1] instead of what was charged. Idempotent, since it sets.
--
-- KEYS, ARGV, reply  as in checks.lua and close.lua
return close('settled', ARGV[1])
