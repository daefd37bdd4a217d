-- Those of some replicas that have not said for a time that they live.
local time = redis.call('TIME')
local since = time[1] * 1000000 + time[2] - ARGV[1]
local gone = {}
for i = 2, #ARGV do
  local last = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if not last or tonumber(last) < since then gone[#gone + 1] = ARGV[i] end
end
return gone
