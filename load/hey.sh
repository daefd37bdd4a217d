#!/bin/sh
# hey, closed loop. With RATE, each connection sends its share of the rate and waits for late responses.
set -eu
folder=$(dirname "$0")
URL=${URL:-http://127.0.0.1:8080/ingest}
DURATION=${DURATION:-10}
CONNECTIONS=${CONNECTIONS:-64}

body=$(mktemp)
trap 'rm -f "$body"' EXIT INT TERM
"$folder/body.sh" >"$body"
set -- -z "${DURATION}s" -c "$CONNECTIONS" -m POST -T application/json -D "$body"
if [ -n "${RATE:-}" ]; then
    set -- "$@" -q "$(awk -v rate="$RATE" -v connections="$CONNECTIONS" 'BEGIN { print rate / connections }')"
fi
hey "$@" "$URL"
