-- Keys: the entries, their order. Arguments: how many are kept, their life, '1' to write only what is absent, then an id
-- and an entry in turn. Returns the number of the first one, from which the others count up.
local time = redis.call('TIME')
local number = time[1] * 1000000 + time[2]
local last = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')
-- Past this, the next whole number is not a double any more.
if last[2] and tonumber(last[2]) < 9e15 then number = math.max(number, last[2] + 1) end
local first = string.format('%.0f', number)
for i = 4, #ARGV, 2 do
  if ARGV[3] ~= '1' or not redis.call('HGET', KEYS[1], ARGV[i]) then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    redis.call('ZADD', KEYS[2], string.format('%.0f', number), ARGV[i])
    number = number + 1
  end
end
local over = redis.call('ZRANGE', KEYS[2], 0, -1 - ARGV[1])
for i = 1, #over do redis.call('HDEL', KEYS[1], over[i]) end
if #over > 0 then redis.call('ZREMRANGEBYRANK', KEYS[2], 0, #over - 1) end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return first
