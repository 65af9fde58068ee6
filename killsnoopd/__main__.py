"""Runs the daemon: `python -m killsnoopd`."""

import sys

from killsnoopd.daemon import main

sys.exit(main())
