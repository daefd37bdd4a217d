local fields = redis.call('HGETALL', KEYS[1])
local values, wanted = {}, {}
for i = 1, #fields, 2 do values[fields[i]] = fields[i + 1] end
for i = 1, #ARGV do wanted[ARGV[i]] = true end
local folded = 0
for i = 1, #fields, 2 do
  local replica, metric = string.match(fields[i], '^(%x%x%x%x%x%x%x%x)(.*)$')
  if replica and wanted[replica] then
    local past, sum = 'past' .. metric, nil
    if metric == '' then
      local pattern = '^(%d+):(%d+):(%d+):(%d+)$'
      local time, timestamp, total, anomalies = string.match(fields[i + 1], pattern)
      if time then
        local t, s, n, a = string.match(values[past] or '0:0:0:0', pattern)
        if t and tonumber(t) > tonumber(time) then time, timestamp = t, s end
        sum = string.format('%s:%s:%.0f:%.0f', time, timestamp, total + (n or 0), anomalies + (a or 0))
      end
    else
      local pattern = '^(%d+):(%d+)$'
      local total, anomalies = string.match(fields[i + 1], pattern)
      if total then
        local n, a = string.match(values[past] or '0:0', pattern)
        sum = string.format('%.0f:%.0f', total + (n or 0), anomalies + (a or 0))
      end
    end
    if sum then
      values[past] = sum
      redis.call('HSET', KEYS[1], past, sum)
      redis.call('HDEL', KEYS[1], fields[i])
      folded = folded + 1
    end
  end
end
return folded
