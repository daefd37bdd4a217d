-- From now on the detector states of a device are this replica's. Returns the number of the takeover, the replica that had
-- them before, and 1 if nobody can have any. A takeover that is made twice is the same one.
local holder, number, before = string.match(redis.call('HGET', KEYS[1], 'owner') or '', '^(%x+):(%d+):(%x*)$')
if holder == ARGV[1] then
  -- What it stated before a restart it has, and goes on with: nobody else may take it for current.
  local replica, taken = string.match(redis.call('HGET', KEYS[2], '') or '', '^%d+:(%x+):%d+:(%d+)')
  if replica == holder and taken == number then redis.call('DEL', KEYS[2]) end
  return {number, before, before == '' and 1 or 0}
end
number, before = string.format('%.0f', (tonumber(number) or 0) + 1), holder or ''
local nobody = before == '' and redis.call('EXISTS', KEYS[2]) == 0
if nobody then
  -- A replica of the version before, or one whose takeover was lost, has counts.
  local counts = redis.call('HGETALL', KEYS[1])
  for i = 1, #counts, 2 do
    local id = string.match(counts[i], '^(%x%x%x%x%x%x%x%x)')
    if id and id ~= ARGV[1] then nobody = false end
  end
end
redis.call('HSET', KEYS[1], 'owner', ARGV[1] .. ':' .. number .. ':' .. before)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {number, before, nobody and 1 or 0}
