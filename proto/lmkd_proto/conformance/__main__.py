"""The command: look, and print what held."""

from __future__ import annotations

import sys

from lmkd_proto.conformance.command import main

sys.exit(main())
