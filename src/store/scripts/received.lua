-- The replica that has taken a device over has its states: they are deleted, and who had them before is of no account any more.
local own = ARGV[1] .. ':' .. ARGV[2] .. ':'
local owner = redis.call('HGET', KEYS[1], 'owner') or ''
if string.sub(owner, 1, #own) == own then redis.call('HSET', KEYS[1], 'owner', own) end
return redis.call('DEL', KEYS[2])
