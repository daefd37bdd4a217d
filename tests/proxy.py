"""nginx in front of replicas, and clients that ask through it; shared by nginx.py, alerts.py and replicas.py."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benches"))

import bench

# What every configuration begins with; {folder} is its own, {http} the rest of the http section.
FRAME = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {http}
}}
"""


def folder(stack: contextlib.ExitStack, name: str) -> Path:
    """A temporary folder that nginx may enter, whose workers may run as another user."""
    path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"sigmad-{name}-")))
    path.chmod(0o755)
    return path


def start(stack: contextlib.ExitStack, folder: Path, http: str, port: int) -> None:
    """nginx with that http section, until the stack closes; returns once it listens."""
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    if not Path(nginx).exists():
        sys.exit("nginx is not installed (`make setup` does that)")
    (folder / "nginx.conf").write_text(FRAME.format(folder=folder, http=http))
    command = [nginx, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    stack.enter_context(bench.running(command, stderr=subprocess.DEVNULL))
    bench.wait_for_listener(port)


class Drivers:
    """Threads that call `drive` with their number, and end after `stop` is set."""

    def __init__(self, count: int) -> None:
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self.drive, args=(number,)) for number in range(count)]

    def drive(self, number: int) -> None:
        raise NotImplementedError

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()


class Clients(Drivers):
    """Drivers that ask a port; `codes` counts answers."""

    def __init__(self, port: int, count: int) -> None:
        super().__init__(count)
        self.port = port
        self.lock = threading.Lock()
        self.codes: Counter[str] = Counter()
