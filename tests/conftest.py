"""In CI every test must run: a skip is a failure."""

import os
import signal

import certificates
import pytest

collect_ignore = ["vm"]  # runs on its own machine: make test-vm


def pytest_configure():
    """Restore SIGINT: a shell's background jobs ignore it, and the programs under test would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish(session, exitstatus):
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and exitstatus == pytest.ExitCode.OK and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Certificates: ca, other (a CA), server and three clients; `inline.yml` has cert and key as text."""
    result = tmp_path_factory.mktemp("certificates")
    certificates.ca(result)
    certificates.ca(result, "other")
    certificates.issue(result, "server", "DNS:localhost,IP:127.0.0.1")
    certificates.issue(
        result, "client", "DNS:scraper.example,URI:spiffe://example/prometheus,IP:::1,email:p@example.org"
    )
    certificates.issue(result, "nameless", "DNS:somebody.else")
    certificates.issue(result, "stranger", "DNS:scraper.example", by="other")
    return result
