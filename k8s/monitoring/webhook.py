#!/usr/bin/env python3
"""A receiver of alerts that prints each alert as one line of JSON.

For a trial, instead of a pager. WEBHOOK_LISTEN is its address.
"""

import http.server
import json
import os
import threading

# A message of Alertmanager has some kilobytes per alert.
BODY_BYTES_MAX = 1024 * 1024
# A client that sends nothing is disconnected.
TIMEOUT_S = 10
# Each connection has its own thread; the lines of two messages must not mix.
PRINTING = threading.Lock()


class Receiver(http.server.BaseHTTPRequestHandler):
    timeout = TIMEOUT_S

    def do_GET(self) -> None:
        self.answer(200)

    def do_POST(self) -> None:
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            return self.answer(411)
        if not 0 <= length <= BODY_BYTES_MAX:
            return self.answer(413)
        try:
            alerts = json.loads(self.rfile.read(length))["alerts"]
            lines = [line_of(alert) for alert in alerts]
        except (ValueError, KeyError, TypeError, AttributeError):
            return self.answer(400)
        with PRINTING:
            for line in lines:
                print(line, flush=True)
        self.answer(200)

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Probes and alerts are not logged as requests."""


def line_of(alert: dict) -> str:
    labels = dict(alert["labels"])
    line = {"status": alert["status"], "alertname": labels.pop("alertname"), "labels": labels}
    return json.dumps({**line, "summary": alert["annotations"].get("summary"), "startsAt": alert["startsAt"]})


def main() -> None:
    host, _, port = os.environ.get("WEBHOOK_LISTEN", "0.0.0.0:9095").rpartition(":")
    http.server.ThreadingHTTPServer((host, int(port)), Receiver).serve_forever()


if __name__ == "__main__":
    main()
