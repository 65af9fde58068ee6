"""Something that waits, beside a test."""

import threading


def in_thread(action):
    """Run it beside the test; its exception, or None, is the list's only item at the end."""
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
