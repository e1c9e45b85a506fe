"""``python -m tt_edge``."""

import sys

from tt_edge.cli import main

sys.exit(main())
