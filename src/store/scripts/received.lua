-- The replica that has taken a device over has its states. Those of takeovers before its own are deleted, and who had them before is of
-- no account any more. Newer ones stay: a replica after this one waits for them.
local own = ARGV[1] .. ':' .. ARGV[2] .. ':'
local owner = redis.call('HGET', KEYS[1], 'owner') or ''
if string.sub(owner, 1, #own) == own then redis.call('HSET', KEYS[1], 'owner', own) end
local header = redis.call('HGET', KEYS[2], '')
-- Without one, they are being written.
if not header then return 0 end
local takeover = string.match(header, '^%d+:%x+:%d+:(%d+)') or '0'
if tonumber(takeover) >= tonumber(ARGV[2]) then return 0 end
return redis.call('DEL', KEYS[2])
