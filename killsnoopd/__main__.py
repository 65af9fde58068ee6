"""python -m killsnoopd."""

import sys

from killsnoopd.daemon import main

sys.exit(main())
