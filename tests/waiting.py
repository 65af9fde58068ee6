"""Waiting for what will be, with a deadline."""

import os
import time

DEADLINE_S = float(os.environ.get("DEADLINE_S", "120"))  # an emulated machine takes ten times as long as a real one


def wait_for(condition, what, deadline_s=DEADLINE_S):
    """The first true value of condition(), which takes half of the time at most; fails after the deadline."""
    end = time.monotonic() + deadline_s
    while True:
        began = time.monotonic()
        if value := condition():
            return value
        now = time.monotonic()
        assert now < end, f"waited {deadline_s:.0f} s for {what}"
        time.sleep(max(0.01, now - began))
