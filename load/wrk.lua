-- wrk, closed loop:  wrk -t1 -c64 -d10s --latency -s load/wrk.lua http://127.0.0.1:8080/ingest
-- BATCH in the environment is the number of samples in a request, PIPELINE that of requests in a write.

local batch = tonumber(os.getenv("BATCH") or 1)
local pipeline = tonumber(os.getenv("PIPELINE") or 1)

local function body()
  if batch == 1 then
    return '{"timestamp":1735100000,"cpu":60.5,"rps":2000}'
  end
  local samples = {}
  for i = 0, batch - 1 do
    samples[#samples + 1] = string.format(
      '{"timestamp":%d,"device":"edge-%02d","cpu":%.1f,"rps":%d}',
      1735100000 + i, i % 100, 40 + i % 17 + 0.5, 1900 + i % 201)
  end
  return "[" .. table.concat(samples, ",") .. "]"
end

wrk.method = "POST"
wrk.body = body()
wrk.headers["Content-Type"] = "application/json"

local bytes
function init()
  bytes = string.rep(wrk.format(), pipeline)
end

function request()
  return bytes
end

-- wrk's "Requests/sec" counts refusals as well: these are the answers with 2xx and 3xx.
function done(summary, latency)
  local e = summary.errors
  local good = summary.requests - e.status
  io.write(string.format("good: %d, %.0f/s; other answers: %d; lost: %d\n",
    good, good / (summary.duration / 1e6), e.status, e.connect + e.read + e.write + e.timeout))
end
