#!/usr/bin/env python3
"""Behind nginx, set up as ingress-nginx does: no 502 under load, none while replicas are replaced.

Upstream connections are kept for 60 s over HTTP/1.1 and requests carry a browser's headers and the
proxy's, more than 25 in all. First a stretch of load over two replicas, then each of them is
stopped and started again under load. `/debug/` stays closed to clients of the proxy, also with nothing but
`proxy_pass`. NGINX_SECONDS is the length of the stretch, 10 unless set;
`make nginx` runs it, SIGMAD names the binary.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benches"))

import bench
import proxy

SECONDS = float(os.environ.get("NGINX_SECONDS", "10"))
CLIENTS = 16
BODY = b'{"timestamp":1735100000,"cpu":60.5,"rps":2000}'
# What a browser sends to an API; nginx adds nine more.
HEADERS = {
    "Accept": "application/json, text/plain, */*",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Accept-Language": "en-GB,en;q=0.9,de;q=0.8",
    "Cache-Control": "no-cache",
    "Content-Type": "application/json",
    "Cookie": "session=" + "0123456789abcdef" * 16 + "; theme=dark; consent=all",
    "DNT": "1",
    "Origin": "https://dashboard.example.com",
    "Pragma": "no-cache",
    "Priority": "u=1, i",
    "Referer": "https://dashboard.example.com/fleet?view=anomalies",
    "Sec-CH-UA": '"Chromium";v="130", "Not?A_Brand";v="99"',
    "Sec-CH-UA-Mobile": "?0",
    "Sec-CH-UA-Platform": '"Linux"',
    "Sec-Fetch-Dest": "empty",
    "Sec-Fetch-Mode": "cors",
    "Sec-Fetch-Site": "same-site",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/130.0.0.0 Safari/537.36",
    "X-Requested-With": "XMLHttpRequest",
}

# The template of ingress-nginx, as far as it touches the upstream. It retries on errors and timeouts
# and, as POST is not idempotent, never once the request has gone out.
HTTP = """
    keepalive_timeout 75s;
    keepalive_requests 1000;
    upstream sigmad {{
        server 127.0.0.1:{first} max_fails=0;
        server 127.0.0.1:{second} max_fails=0;
        keepalive 320;
        keepalive_time 1h;
        keepalive_timeout 60s;
        keepalive_requests 10000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location / {{
            client_max_body_size 8m;
            proxy_set_header Host $http_host;
            proxy_set_header Connection "";
            proxy_set_header X-Request-ID $request_id;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header X-Forwarded-Port $server_port;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Scheme $scheme;
            proxy_set_header X-Scheme $scheme;
            proxy_set_header X-Original-Forwarded-For $http_x_forwarded_for;
            proxy_set_header Proxy "";
            proxy_connect_timeout 5s;
            proxy_send_timeout 60s;
            proxy_read_timeout 60s;
            proxy_buffering off;
            proxy_http_version 1.1;
            proxy_next_upstream error timeout;
            proxy_next_upstream_tries 3;
            proxy_pass http://sigmad;
        }}
    }}
    server {{
        listen 127.0.0.1:{stock};
        location / {{
            proxy_pass http://127.0.0.1:{first};
        }}
    }}
"""


class Load(proxy.Clients):
    """Posts through nginx until stopped."""

    def drive(self, number: int) -> None:
        codes: Counter[str] = Counter()
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while not self.stop.is_set():
            # Most clients post; some read.
            method, path, body = ("POST", "/ingest", BODY) if number % 4 else ("GET", "/analyze", None)
            try:
                client.request(method, path, body, HEADERS)
                answer = client.getresponse()
                payload = answer.read()
                code = str(answer.status)
                if answer.status in (200, 202):
                    json.loads(payload)
            except (OSError, http.client.HTTPException, ValueError) as error:
                code = type(error).__name__
                client.close()
            codes[code] += 1
        with self.lock:
            self.codes.update(codes)

    def check(self, what: str, folder: Path) -> bool:
        good = set(self.codes) <= {"200", "202"}
        print(f"{what}: {dict(self.codes)}{'' if good else ' FAILED'}", flush=True)
        if not good:
            print((folder / "error.log").read_text()[-2000:])
        return good


def replica(port: int):
    return bench.sigmad(listen=f"127.0.0.1:{port}")


def debug_is_closed(port: int) -> bool:
    """No client of the proxy gets what is open to local requests."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    client.request("GET", "/debug/pprof/cmdline")
    answer = client.getresponse()
    payload = answer.read()
    client.close()
    good = answer.status == 403 and b"loopback_only" in payload
    print(f"/debug/ through port {port}: {answer.status}{'' if good else ' FAILED'}", flush=True)
    return good


def main() -> None:
    with contextlib.ExitStack() as stack:
        folder = proxy.folder(stack, "nginx")
        ports = {name: bench.free_port() for name in ("first", "second", "port", "stock")}
        replicas = {}
        for name in ("first", "second"):
            replicas[name] = stack.enter_context(contextlib.ExitStack())
            child, _ = replicas[name].enter_context(replica(ports[name]))
            replicas[name].child = child
        proxy.start(stack, folder, HTTP.format(**ports), ports["port"])

        with Load(ports["port"], CLIENTS) as load:
            time.sleep(SECONDS)
        good = load.check(f"{SECONDS:g} s of load", folder)
        # As ingress-nginx, and with nothing but `proxy_pass` on the same machine.
        good = all([debug_is_closed(ports["port"]), debug_is_closed(ports["stock"]), good])

        with Load(ports["port"], CLIENTS) as load:
            time.sleep(1)
            for name in ("first", "second"):
                child = replicas[name].child
                child.send_signal(signal.SIGTERM)
                code = child.wait(timeout=60)
                if code != 0:
                    print(f"the {name} replica exits {code}")
                    good = False
                time.sleep(1)
                replicas[name].close()
                child, _ = replicas[name].enter_context(replica(ports[name]))
                replicas[name].child = child
                time.sleep(1)
        good = load.check("a rolling restart", folder) and good
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
