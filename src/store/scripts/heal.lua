local future = #redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. ARGV[1], '+inf')
if future > 0 then redis.call('ZREMRANGEBYRANK', KEYS[1], -future, -1) end
return future
