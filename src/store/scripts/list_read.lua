-- Keys: the entries, their order. Arguments: the number of the last write that is known, and how many are read.
local found = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
local read = {}
for i = 1, #found, 2 do
  read[#read + 1] = found[i + 1]
  read[#read + 1] = found[i]
  read[#read + 1] = redis.call('HGET', KEYS[1], found[i]) or ''
end
return read
