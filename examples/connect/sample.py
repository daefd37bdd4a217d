"""Posts the load of this machine once a second, in batches of five. Usage: python3 sample.py [URL] [SAMPLES]"""

import json
import os
import socket
import sys
import time
import urllib.request

url = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:8080/ingest"
count = int(sys.argv[2]) if len(sys.argv) > 2 else 60
batch = []
for number in range(1, count + 1):
    batch.append({"timestamp": time.time(), "device": socket.gethostname(), "load1": os.getloadavg()[0]})
    if number % 5 == 0 or number == count:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(url, json.dumps(batch).encode(), headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            print(answer.read().decode())
        batch.clear()
    if number < count:
        time.sleep(1)
