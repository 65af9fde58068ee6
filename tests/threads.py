"""Runs a function in a thread beside the test."""

import threading


def in_thread(action):
    """Run it beside the test; at the end the list has one item, its exception or None."""
    outcome = []

    def run():
        try:
            action()
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome
