"""python -m dicap: the command line, where the script `dicap` is not on the path."""

import sys

from dicap.cli import main

sys.exit(main())
