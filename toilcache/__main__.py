"""``python -m toilcache`` is the command ``toilcache``."""

import sys

from toilcache.cli import main

sys.exit(main())
