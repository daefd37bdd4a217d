#!/bin/sh
# ab, closed loop, HTTP/1.0 with keep-alive. It knows no rate.
set -eu
folder=$(dirname "$0")
URL=${URL:-http://127.0.0.1:8080/ingest}
DURATION=${DURATION:-10}
CONNECTIONS=${CONNECTIONS:-64}
# ab takes 32 bytes for each before it starts.
REQUESTS_MAX=5000000

body=$(mktemp)
trap 'rm -f "$body"' EXIT INT TERM
"$folder/body.sh" >"$body"
# -l: answers may differ in length. -n after -t, which would set it to 50,000.
ab -q -k -l -t "$DURATION" -n "$REQUESTS_MAX" -c "$CONNECTIONS" -p "$body" -T application/json "$URL"
