"""The commands that ask no daemon: rules checked and tried, and recordings run again.

They decide as the daemon would, so they import the policy. That is why they are apart: whoever asks a daemon does
not pay for it.
"""

from __future__ import annotations

from argparse import Namespace

from lmkd.ctl.page import Page
from lmkd.ctl.rules import Supposed, run_check, run_test


def run_offline(arguments: Namespace, page: Page, *, as_json: bool) -> int:
    """Run one command to its end; return its exit code."""
    if arguments.action == "rules check":
        return run_check(page, arguments.files, as_json=as_json)
    if arguments.action == "rules test":
        return run_test(
            page, arguments.pid, _supposed(arguments), arguments.config, as_json=as_json
        )
    from lmkd.ctl.replay import run_replay

    return run_replay(
        page, arguments.file, arguments.config, as_json=as_json, recorded=arguments.recorded
    )


def _supposed(arguments: Namespace) -> Supposed:
    given = {
        name.removeprefix("supposed_"): value
        for name, value in vars(arguments).items()
        if name.startswith("supposed_")
    }
    variables = given.pop("environ")
    environ = None if variables is None else tuple(variables)
    return Supposed(**given, environ=environ, registered=arguments.registered)
