"""`python -m spex_core`: the same as the console command `spex`."""

import sys

from .cli import main

sys.exit(main())
