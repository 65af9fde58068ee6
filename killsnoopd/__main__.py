"""Runs the daemon: `python -m killsnoopd`."""

import sys

from killsnoopd.entry import daemon

sys.exit(daemon())
