-- States of a newer version stay: an older replica neither reads nor replaces them.
local header = redis.call('HGET', KEYS[1], '')
local version = header and tonumber(string.match(header, '^%d+'))
if version and version > tonumber(ARGV[1]) then return 0 end
if ARGV[2] == '1' then redis.call('DEL', KEYS[1]) end
for i = 5, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], '', ARGV[4]) end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
