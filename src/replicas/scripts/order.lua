-- KEYS: orders, number of the last. ARGV: the order, how many may wait, life of both keys in ms.
if redis.call('LLEN', KEYS[1]) >= tonumber(ARGV[2]) then return '' end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local last = tonumber(redis.call('GET', KEYS[2]) or '0') or 0
local number = string.format('%.0f', math.max(last + 1, now))
redis.call('SET', KEYS[2], number, 'PX', ARGV[3])
redis.call('RPUSH', KEYS[1], number .. ':' .. ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return number
