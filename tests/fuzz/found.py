"""Inputs on which a target once broke its word, by target; `make test` tries each of them again."""

FOUND: tuple[tuple[str, bytes], ...] = (
    # A mount point with a NUL in it: ValueError out of open().
    ("probe", bytes.fromhex("2000206367726f75703220")),
)
