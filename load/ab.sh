#!/bin/sh
# ab, closed loop, HTTP/1.0 with keep-alive. It has no rate limit.
set -eu
folder=$(dirname "$0")
URL=${URL:-http://127.0.0.1:8080/ingest}
DURATION=${DURATION:-10}
CONNECTIONS=${CONNECTIONS:-64}
# ab allocates 32 bytes per request before it starts.
REQUESTS_MAX=5000000

body=$(mktemp)
trap 'rm -f "$body"' EXIT INT TERM
"$folder/body.sh" >"$body"
# -l: responses may differ in length. -n is after -t, because -t sets it to 50,000.
ab -q -k -l -t "$DURATION" -n "$REQUESTS_MAX" -c "$CONNECTIONS" -p "$body" -T application/json "$URL"
