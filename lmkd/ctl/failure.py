"""What ends a command without a result, beside what lmkd_client raises."""

from __future__ import annotations


class CommandFailed(Exception):
    """A command could not be done here, and why, in a line."""
