"""CI allows no skip: there every test must run."""

import os
import signal

import pytest


def pytest_configure():
    """A shell has its background jobs ignore SIGINT, and what they start; the programs under test must not."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish(session, exitstatus):
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and exitstatus == pytest.ExitCode.OK and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
