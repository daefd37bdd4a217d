"""Builds the senders that are programs in Go: a folder of tests/senders each, with its modules named in go.sum."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import bench

# With an empty cache it fetches and compiles hundreds of packages.
BUILD_TIMEOUT_S = 40 * 60


def go() -> str:
    return shutil.which("go") or str(bench.ROOT / ".venv" / "bin" / "go")


def build(folder: Path) -> str:
    """The program of this folder, in target/senders."""
    program = bench.target_dir().parent / "senders" / folder.name
    program = program.absolute()
    # Without cgo: none of them needs C. Without symbols: nobody debugs them.
    command = [go(), "build", "-buildvcs=false", "-ldflags=-s -w", "-o", str(program), "."]
    environment = os.environ | {"CGO_ENABLED": "0"}
    if subprocess.run(command, cwd=folder, env=environment, check=False, timeout=BUILD_TIMEOUT_S).returncode != 0:
        sys.exit(f"{folder} does not build, or its modules can't be had from here")
    return str(program)
