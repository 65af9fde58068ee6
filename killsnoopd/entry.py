"""Entry points of the three programs.

This module runs on Python 3.6 and later, and imports the programs late. So a Python that is too old, or a library that
is missing, makes one line and an exit code, as every failure does.
"""

import importlib
import json
import os
import signal
import sys

_NEEDED = (3, 11)
# Its Python is the one that bcc is packaged for: 3.9 in Enterprise Linux 9 and Amazon Linux 2023.
_LOADER_NEEDED = (3, 9)
_CONFIG = 78  # failure.Exit.CONFIG; failure is imported once the version is known
PACKAGES = {
    "h11": "python3-h11",
    "prometheus_client": "python3-prometheus-client (Debian, Ubuntu) or python3-prometheus_client (Fedora)",
    "systemd": "python3-systemd",
}
"""The libraries that the daemon needs, and the packages that have them."""


OPTIONAL = {
    "yaml": "python3-yaml (Debian, Ubuntu) or python3-pyyaml (Fedora)",
    "bcrypt": "python3-bcrypt",
}
"""Libraries that flags need."""


def daemon() -> int:
    """`killsnoopd`; an exit code of failure.Exit."""
    # The daemon's module needs the libraries that --check looks for.
    return _run("killsnoopd", "killsnoopd.check" if "--check" in sys.argv[1:] else "killsnoopd.daemon")


def loader() -> int:
    """`killsnoopd-loader`; an exit code of failure.Exit."""
    return _run("killsnoopd-loader", "killsnoopd.probe.loader")


def command() -> int:
    """`killsnoop`; an exit code of killsnoop(8)."""
    return _run("killsnoop", "killsnoopd.query.command")


def missing_library(module: str, error: ImportError) -> str:
    """What is missing, for which Python, and what to install."""
    packages = {**PACKAGES, **OPTIONAL}
    return f"{module} is missing for {sys.executable} ({error}): install {packages.get(module, 'it')}"


def _run(program: str, module: str) -> int:
    """Import a program's module and call its main()."""
    oldest = _LOADER_NEEDED if program == "killsnoopd-loader" else _NEEDED
    if sys.version_info < oldest:
        found, needed = (".".join(map(str, version[:3])) for version in (sys.version_info, oldest))
        return _fail(program, _CONFIG, f"{program} needs Python {needed} or later; {sys.executable} is {found}")
    from killsnoopd import failure

    try:
        try:
            main = importlib.import_module(module).main
        except ImportError as error:
            missing = (error.name or "").partition(".")[0]
            if missing in ("", "killsnoopd"):
                raise
            return _fail(program, _CONFIG, missing_library(missing, error))
        return int(main())
    except KeyboardInterrupt:  # while it starts; end by the signal, as the shell expects
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        raise
    except Exception as error:
        bug = failure.unforeseen(error)
        if os.environ.get("KILLSNOOP_DEBUG"):
            sys.stderr.write(bug.details)
        return _fail(program, bug.exit_code, str(bug))


def _fail(program: str, exit_code: int, line: str) -> int:
    """Report a failure to the daemon that runs this loader, if one does, else on stderr; the exit code."""
    peers = [argument[len("--fd=") :] for argument in sys.argv[1:] if argument.startswith("--fd=")]
    if program == "killsnoopd-loader" and peers:
        # As handover.send_failure, which older Pythons cannot import.
        os.write(int(peers[0]), json.dumps({"error": {"line": line, "exit": exit_code, "details": ""}}).encode())
    else:
        sys.stderr.write(f"{program}: {line}\n")
    return exit_code
