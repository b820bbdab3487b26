"""`python -m scgim`: the command line where the script `scgim` is not on the PATH."""

from __future__ import annotations

import sys

from scgim.cli import main

sys.exit(main())
