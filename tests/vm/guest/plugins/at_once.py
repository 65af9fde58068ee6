"""Prints at once why a test failed: the machine may die before the end."""


def pytest_runtest_logreport(report):
    if report.failed:
        print(f"\n{report.longreprtext}", flush=True)
