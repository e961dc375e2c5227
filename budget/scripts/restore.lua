-- A job that is over may spend again: make its counter anew if it is gone. One that is there knows better.
--
-- KEYS[1]  the job's counter, a hash {spent, reserved}
-- ARGV[1]  what the job has spent, nano-USD
-- ARGV[2]  its expiry, seconds since 1970
if redis.call('EXISTS', KEYS[1]) == 0 then
    redis.call('HSET', KEYS[1], 'spent', ARGV[1], 'reserved', '0')
    redis.call('EXPIREAT', KEYS[1], ARGV[2])
end
