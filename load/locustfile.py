"""Locust: users that post samples, closed loop, or at RATE requests a second in all.

CONNECTIONS=64 locust -f load/locustfile.py --headless -u 64 -r 64 -t 10s --host http://127.0.0.1:8080

CONNECTIONS is needed with RATE only, and must equal -u. BATCH is the number of samples in a request.
"""

import json
import os

from locust import FastHttpUser, constant, constant_throughput, task

BATCH = int(os.environ.get("BATCH", "1"))
CONNECTIONS = int(os.environ.get("CONNECTIONS", "64"))
RATE = float(os.environ.get("RATE", "0"))


def body() -> bytes:
    if BATCH == 1:
        return b'{"timestamp":1735100000,"cpu":60.5,"rps":2000}'
    samples = [
        {"timestamp": 1735100000 + i, "device": f"edge-{i % 100:02}", "cpu": 40.5 + i % 17, "rps": 1900 + i % 201}
        for i in range(BATCH)
    ]
    return json.dumps(samples, separators=(",", ":")).encode()


BODY = body()


class Device(FastHttpUser):
    wait_time = constant_throughput(RATE / CONNECTIONS) if RATE else constant(0)

    @task
    def ingest(self):
        headers = {"Content-Type": "application/json"}
        with self.client.post("/ingest", data=BODY, headers=headers, catch_response=True) as answer:
            # A part of a batch is no success.
            if answer.status_code != 202 or answer.json()["accepted"] != BATCH:
                answer.failure(f"{answer.status_code}: {answer.text}")
