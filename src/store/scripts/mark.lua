local time = redis.call('TIME')
local last = tonumber(redis.call('GET', KEYS[1]) or '0')
local number = math.max(last + 1, time[1] * 1000000 + time[2])
local digits = string.format('%.0f', number)
local page = tonumber(ARGV[2])
local found = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, page)
local count, cursor = #found / 2, digits
if count == page then
  cursor = found[#found]
  while count > 0 and found[2 * count] == cursor do count = count - 1 end
  if count == 0 then count = page else cursor = found[2 * count] end
end
local names = {}
for i = 1, count do names[i] = found[2 * i - 1] end
redis.call('SET', KEYS[1], digits, 'PX', ARGV[3])
local marked = {}
for i = 5, #ARGV do
  marked[#marked + 1] = digits
  marked[#marked + 1] = ARGV[i]
end
if #marked > 0 then
  redis.call('ZADD', KEYS[2], unpack(marked))
  redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - ARGV[4])
end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return {digits, cursor, names}
