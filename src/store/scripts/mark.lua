local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local last = tonumber(redis.call('GET', KEYS[1]) or '0')
-- Past this, the next whole number is not a double any more.
if last > 9e15 then last = 0 end
local number = math.max(last + 1, now)
local digits = string.format('%.0f', number)
-- The first member is no name, and its score is below those of all changes: it is lost with the set alone.
local first = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(0', 'WITHSCORES', 'LIMIT', 0, 1)
if #first == 0 then
  -- Without the number too, only what has the windows in use beside it tells whether all data is lost.
  local is_all = last == 0 and #redis.call('ZRANGE', KEYS[3], 0, 0) == 0
  first = {is_all and '\255all' or '\255marks', '-' .. digits}
  redis.call('ZADD', KEYS[2], first[2], first[1])
end
local cursor, names = string.format('%.0f', last), {}
if ARGV[1] ~= '' then
  local page = tonumber(ARGV[2])
  local found = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, page)
  local count = #found / 2
  cursor = digits
  if count == page then
    cursor = found[#found]
    while count > 0 and found[2 * count] == cursor do count = count - 1 end
    if count == 0 then count = page else cursor = found[2 * count] end
  end
  for i = 1, count do
    names[i] = found[2 * i - 1]
    -- A number that no change has had so far would be returned by every mark: it becomes this one.
    if tonumber(found[2 * i]) > number then redis.call('ZADD', KEYS[2], digits, names[i]) end
  end
end
redis.call('SET', KEYS[1], digits, 'PX', ARGV[3])
local marked = {}
for i = 8, #ARGV do
  marked[#marked + 1] = digits
  marked[#marked + 1] = ARGV[i]
end
if #marked > 0 then
  redis.call('ZADD', KEYS[2], unpack(marked))
  redis.call('ZREMRANGEBYRANK', KEYS[2], 1, -1 - ARGV[4])
end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
local windows = {}
if ARGV[5] ~= '' then
  local life = tonumber(ARGV[6])
  redis.call('ZADD', KEYS[3], string.format('%.0f', now), ARGV[5])
  redis.call('ZREMRANGEBYRANK', KEYS[3], 0, -17)
  redis.call('PEXPIRE', KEYS[3], ARGV[6])
  local used = redis.call('ZRANGE', KEYS[3], 0, -1, 'WITHSCORES')
  for i = 1, #used, 2 do
    if math.abs(now - used[i + 1]) <= life * 1000 then windows[#windows + 1] = used[i] end
  end
  redis.call('ZADD', KEYS[4], string.format('%.0f', now), ARGV[7])
  redis.call('ZREMRANGEBYRANK', KEYS[4], 0, -1025)
  redis.call('PEXPIRE', KEYS[4], ARGV[6])
end
return {digits, cursor, names, string.format('%.0f', now), windows, first[1], first[2]}
