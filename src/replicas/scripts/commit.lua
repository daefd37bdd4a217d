-- KEYS: lease, book, version of the book, orders. ARGV: the lease as this replica has it, the book, its life in ms,
-- how many orders are done.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return '' end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local last = tonumber(redis.call('GET', KEYS[3]) or '0') or 0
local version = string.format('%.0f', math.max(last + 1, now))
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
redis.call('SET', KEYS[3], version, 'PX', ARGV[3])
if tonumber(ARGV[4]) > 0 then redis.call('LTRIM', KEYS[4], ARGV[4], -1) end
return version
