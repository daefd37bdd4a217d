#!/bin/sh
# How many system calls does a keep-alive request cost?
#
# Counts with strace on a running sigmad, over TCP and over a Unix socket, once for one connection that
# asks again and again and once for 64 connections that ask together, and fails when a request costs more
# than one read, one write and its share of epoll_wait. SIGMAD names the binary.
# shellcheck disable=SC2016,SC2317,SC2329 # $0 is for the inner shell; cleanup is called by the trap
set -eu

cd "$(dirname "$0")/.."
SIGMAD=${SIGMAD:-target/release/sigmad}
# Long enough that what a connection costs once does not count.
REQUESTS=${REQUESTS:-6400}
# One each; the rest is accepting the connections and their last, empty reads.
READS_MAX=1.02
WRITES_MAX=1.02
# One for each request of one connection that waits for its answers.
WAITS_MAX=1.02
# Anything else, each kind for itself: what happens now and then, never for each request.
OTHERS_MAX=0.05
# Sleeps that ran out (ETIMEDOUT, clock_nanosleep) go by the clock, not by the request: strace slows
# requests tenfold, but not the clock.
SLEEPS_PER_S_MAX=10000
# So do calls of a futex that wake somebody or were woken: two for a park of analytics, which parks only while chunks
# are more than 675 us apart (src/analytics/thread/pace.rs). One for each request would be 5,000 a second even under strace.
WAKES_PER_S_MAX=3000

scratch=$(mktemp -d)
server=
cleanup() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    rm -rf "$scratch"
}
trap cleanup EXIT INT TERM

socket=$scratch/socket
"$SIGMAD" --listen 127.0.0.1:0 --listen "unix:$socket" --workers 1 2>"$scratch/log" &
server=$!

# Prints the port once the log has it.
port=$(timeout 10 sh -c '
    while :; do
        port=$(sed -n "/listening/s/.*127\.0\.0\.1:\([1-9][0-9]*\).*/\1/p" "$0" | head -n 1)
        [ -z "$port" ] || { echo "$port"; exit; }
        sleep 0.02
    done' "$scratch/log") || { cat "$scratch/log"; echo "sigmad did not start" >&2; exit 1; }

cat >"$scratch/load.py" <<'PYTHON'
"""Sends REQUESTS requests to a port or a path over CONNECTIONS connections in rounds; prints the seconds it took."""
import socket
import sys
import time

address, connections, requests = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
body = b'{"timestamp":1735100000,"cpu":60.5,"rps":2000}'
request = b"POST /ingest HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def connect():
    if address.isdigit():
        return socket.create_connection(("127.0.0.1", int(address)), timeout=10)
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(10)
    client.connect(address)
    return client


clients = [connect() for _ in range(connections)]
began = time.monotonic()
for _ in range(requests // connections):
    for client in clients:
        client.sendall(request)
    for client in clients:
        answer = b""
        while not answer.endswith(b"}"):
            part = client.recv(4096)
            assert part, "closed"
            answer += part
        assert answer.startswith(b"HTTP/1.1 202 "), answer
print(time.monotonic() - began)
PYTHON

failed=0
for address in "$port" "$socket"; do
    for connections in 1 64; do
        strace -f -qq -o "$scratch/calls" -p "$server" 2>"$scratch/strace" &
        tracer=$!
        # Until it has attached: the tracer's number stands in the server's status.
        timeout 10 sh -c 'until grep -q "^TracerPid:[[:space:]]*[1-9]" "/proc/$0/status"; do sleep 0.02; done' "$server"
        sleep 0.2
        seconds=$(python3 "$scratch/load.py" "$address" "$connections" "$REQUESTS")
        kill -INT "$tracer"
        wait "$tracer" || true
        family=TCP
        [ "$address" = "$port" ] || family=Unix
        echo "$family, $connections connection(s), $REQUESTS requests in $seconds s under strace:"
        awk -v requests="$REQUESTS" -v seconds="$seconds" -v reads="$READS_MAX" -v writes="$WRITES_MAX" \
            -v others="$OTHERS_MAX" -v waits="$WAITS_MAX" -v sleeps="$SLEEPS_PER_S_MAX" -v wakes="$WAKES_PER_S_MAX" '
            # THREAD call(...) = result, or its end: THREAD <... call resumed>...) = result.
            /<unfinished/ || $2 ~ /^(---|\+\+\+)/ { next }
            {
                name = $2 == "<..." ? $3 : $2
                sub(/\(.*/, "", name)
                if (name ~ /^(read|readv|recvfrom|recvmsg)$/) name = "read"
                else if (name ~ /^(write|writev|sendto|sendmsg)$/) name = "write"
                else if (name ~ /^epoll_p?wait2?$/) name = "epoll_wait"
                else if (name == "clock_nanosleep" || (name == "futex" && /ETIMEDOUT/)) name = "sleep, ran out"
                calls[name]++
            }
            END {
                for (name in calls) {
                    each = calls[name] / requests
                    limit = name == "read" ? reads : name == "write" ? writes : name == "epoll_wait" ? waits : others
                    verdict = ""
                    if (name == "sleep, ran out" || name == "futex") {
                        per_s = calls[name] / seconds
                        verdict = sprintf("%d per second", per_s)
                        if (per_s > (name == "futex" ? wakes : sleeps)) { verdict = verdict " TOO MANY"; bad = 1 }
                    } else if (each > limit) { verdict = "TOO MANY"; bad = 1 }
                    printf "  %-18s %8d  %.3f per request %s\n", name, calls[name], each, verdict
                }
                if (!("read" in calls)) { print "  nothing was counted"; bad = 1 }
                exit bad
            }' "$scratch/calls" || failed=1
    done
done
exit "$failed"
