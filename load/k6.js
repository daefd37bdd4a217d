// k6, closed loop with CONNECTIONS users, or open loop at RATE requests a second:
//   k6 run -e RATE=1000 -e DURATION=60 load/k6.js
import { check } from "k6";
import http from "k6/http";

const URL = __ENV.URL || "http://127.0.0.1:8080/ingest";
const BATCH = Number(__ENV.BATCH || 1);
const CONNECTIONS = Number(__ENV.CONNECTIONS || 64);
const duration = `${__ENV.DURATION || 10}s`;

const closed = { executor: "constant-vus", vus: CONNECTIONS, duration };
const open = {
  executor: "constant-arrival-rate",
  rate: Number(__ENV.RATE || 0),
  timeUnit: "1s",
  duration,
  preAllocatedVUs: CONNECTIONS,
};

export const options = {
  scenarios: { ingest: open.rate > 0 ? open : closed },
  summaryTrendStats: ["med", "p(90)", "p(99)", "p(99.9)", "max"],
  // The run fails if a check or the rate fails: a 503 is not throughput, and a missed rate is not an open loop.
  thresholds: { checks: ["rate==1"], dropped_iterations: ["count==0"] },
};

function body() {
  if (BATCH === 1) {
    return '{"timestamp":1735100000,"cpu":60.5,"rps":2000}';
  }
  const samples = Array.from({ length: BATCH }, (_, i) => ({
    timestamp: 1735100000 + i,
    device: `edge-${String(i % 100).padStart(2, "0")}`,
    cpu: 40.5 + (i % 17),
    rps: 1900 + (i % 201),
  }));
  return JSON.stringify(samples);
}

const BODY = body();
const params = { headers: { "Content-Type": "application/json" } };

export default function () {
  const answer = http.post(URL, BODY, params);
  check(answer, { accepted: (a) => a.status === 202 && a.json("accepted") === BATCH });
}
