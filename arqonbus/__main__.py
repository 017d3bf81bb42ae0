"""`python -m arqonbus` is `arqonbus`."""

import sys

from arqonbus.cli import main

sys.exit(main())
