"""Inputs on which a target once broke its word, by target; `make test` tries each of them again."""

FOUND: tuple[tuple[str, bytes], ...] = (
    # A mount point with a NUL in it: ValueError out of open().
    ("probe", bytes.fromhex("2000206367726f75703220")),
    # A share of more digits than int() takes: ValueError out of the configuration, at a start and at a reload.
    ("configuration", b'[floor.low]\nenter = "' + b"0" * 4301 + b'7%"\n'),
)
