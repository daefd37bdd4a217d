-- KEYS: lease, term, replicas, version of the book, own claims.
-- ARGV: id, life of the lease in ms, version of own claims, who may take a free lease (0: not this one, 1: this one if
-- there was no holder before, 2: this one), life of the other keys in ms, age in ms of replicas that are left out.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local lease = redis.call('GET', KEYS[1])
local last = redis.call('GET', KEYS[2])
local term = ''
if lease then
  local id, number = string.match(lease, '^(%x+):(%d+)$')
  if id == ARGV[1] then
    term = number
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
  end
elseif ARGV[4] == '2' or (ARGV[4] == '1' and not last) then
  -- Larger than all before, also after Redis has lost its data: the time is.
  term = string.format('%.0f', math.max((tonumber(last or '0') or 0) + 1, now))
  lease = ARGV[1] .. ':' .. term
  redis.call('SET', KEYS[2], term, 'PX', ARGV[5])
  redis.call('SET', KEYS[1], lease, 'PX', ARGV[2])
end
redis.call('HSET', KEYS[3], ARGV[1], ARGV[3] .. ':' .. string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[3], ARGV[5])
local replicas = {}
if term ~= '' then
  local found = redis.call('HGETALL', KEYS[3])
  for i = 1, #found, 2 do
    local at = tonumber(string.match(found[i + 1], ':(%d+)$'))
    if at and now - at <= ARGV[6] * 1000 then
      replicas[#replicas + 1] = found[i]
      replicas[#replicas + 1] = found[i + 1]
    else
      redis.call('HDEL', KEYS[3], found[i])
    end
  end
end
local version = redis.call('GET', KEYS[4]) or ''
return {string.format('%.0f', now), lease or '', term, version, redis.call('EXISTS', KEYS[5]), replicas}
