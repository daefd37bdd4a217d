"""Waits until what senders have sent is there, and no longer."""

from __future__ import annotations

import time
from collections.abc import Callable

TIMEOUT_S = 60.0


def wait_for(what: str, condition: Callable[[], object], seconds: float = TIMEOUT_S) -> object:
    """What `condition` returns once that is true; the test fails if it never is."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.1)
    return found


def wait_for_all(wanted: set, before: set, arrived: Callable[[], set]) -> set:
    """What has arrived, once that and `before` have all that is wanted. Nothing else may arrive."""
    wait_for(f"{len(wanted)} values", lambda: wanted <= before | arrived())
    found = arrived()
    assert found <= wanted, sorted(found - wanted)[:3]
    return found
