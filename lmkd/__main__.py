"""`python -m lmkd` and the `lmkd` command."""

from __future__ import annotations

import sys

from lmkd.cli import main

if __name__ == "__main__":
    sys.exit(main())
