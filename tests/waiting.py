"""Waits for a condition, with a deadline."""

import os
import time

DEADLINE_S = float(os.environ.get("DEADLINE_S", "120"))  # an emulated machine is ten times slower than a real one


def wait_for(condition, what, deadline_s=DEADLINE_S, say=str):
    """The first true value of condition(); fails after the deadline, with what say() returns.

    Evaluating it takes a fifth of the time at most: with one CPU, the awaited work needs the rest.
    """
    end = time.monotonic() + deadline_s
    while True:
        began = time.monotonic()
        if value := condition():
            return value
        now = time.monotonic()
        assert now < end, f"waited {deadline_s:.0f} s for {what} {say()}"
        time.sleep(min(max(0.01, 4 * (now - began)), 2))
