"""Imports run one way (STYLE.md): service -> {policy, kernel, proto}, policy -> model, clients -> proto.

The source is parsed, never imported, so an import inside a function or behind TYPE_CHECKING counts as well.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STDLIB = sys.stdlib_module_names


@dataclass(frozen=True)
class Layer:
    """What the modules of a layer may import beside the standard library, and what they may not of that."""

    root: str
    """Folder that holds the package."""
    package: str
    """The layer is this module, or every module below this package."""
    allowed: frozenset[str]
    """Prefixes of dotted names; with = behind it, that name alone (`import lmkd`, for its version)."""
    refused: frozenset[str] = frozenset()
    """Prefixes that are refused although they are allowed, or are of the standard library."""
    only_in: tuple[tuple[str, frozenset[str]], ...] = ()
    """Prefixes that are allowed in these modules alone."""


def layer(
    root: str,
    package: str,
    allowed: str = "",
    refused: str = "",
    only_in: Mapping[str, str] | None = None,
) -> Layer:
    return Layer(
        root,
        package,
        frozenset(allowed.split()),
        frozenset(refused.split()),
        tuple((name, frozenset(modules.split())) for name, modules in (only_in or {}).items()),
    )


BELOW_SERVICE = (
    "lmkd.model lmkd.cgroup_paths lmkd.peers lmkd.policy lmkd.kernel lmkd.replay lmkd.config lmkd="
    " lmkd_proto"
)
OFFLINE = "lmkd.ctl.rules lmkd.ctl.replay"
"""The commands that ask no daemon: they read rules, processes and recordings themselves."""
RUNNING = "lmkd.ctl.held lmkd.ctl.pressure"
"""What measures a program that lmkctl runs, as the daemon does, and finds its pressure file."""
TESTING = " ".join(
    ["lmkd_client.pytest_plugin"]
    + [
        f"lmkd_client.testing{module}"
        for module in ("", ".conversation", ".fake_lmkd", ".scripted")
    ]
)
"""What may import the fake daemon: itself and the fixture, and nothing that a program loads."""
NOT_IN_DAEMON = "lmkd.ctl rich lmkd_client"
LAYERS = (
    layer(".", "lmkd.model"),
    layer(".", "lmkd.cgroup_paths"),
    layer(".", "lmkd.peers"),
    layer(
        ".",
        "lmkd.policy",
        "lmkd.model lmkd.cgroup_paths lmkd.policy",
        "os time trio logging random datetime threading asyncio socket secrets uuid",
    ),
    layer(
        ".",
        "lmkd.replay",
        "lmkd.model lmkd.cgroup_paths lmkd.policy lmkd.replay lmkd= msgpack",
        "logging socket threading",
    ),
    layer(
        ".",
        "lmkd.config",
        "lmkd.model lmkd.cgroup_paths lmkd.policy lmkd.config",
        "logging socket threading",
    ),
    layer(
        ".",
        "lmkd.kernel",
        "lmkd.model lmkd.cgroup_paths lmkd.kernel trio pyroute2",
        "rich",
        only_in={"pyroute2": "lmkd.kernel.process_events"},
    ),
    layer(".", "lmkd.session", "lmkd.cgroup_paths lmkd.kernel", NOT_IN_DAEMON),
    layer(
        ".",
        "lmkd.interop",
        "lmkd.model lmkd.cgroup_paths lmkd.peers lmkd.policy.actions lmkd.policy.events lmkd.interop trio jeepney",
        NOT_IN_DAEMON,
    ),
    layer(
        ".",
        "lmkd.service",
        f"{BELOW_SERVICE} lmkd.interop lmkd.service trio msgpack",
        NOT_IN_DAEMON,
        only_in={"lmkd.interop": "lmkd.service.bridges"},
    ),
    layer(".", "lmkd.check", f"{BELOW_SERVICE} lmkd.service", NOT_IN_DAEMON),
    layer(
        ".", "lmkd.cli", f"{BELOW_SERVICE} lmkd.service lmkd.check lmkd.session trio", NOT_IN_DAEMON
    ),
    layer(".", "lmkd.__main__", "lmkd.cli", NOT_IN_DAEMON),
    layer(
        ".",
        "lmkd.ctl",
        "lmkd.ctl lmkd.config lmkd.model lmkd= rich lmkd_client lmkd_proto"
        " lmkd.policy lmkd.kernel lmkd.replay lmkd.cgroup_paths lmkd.interop.pressure_listeners",
        only_in={
            **dict.fromkeys(("lmkd.policy", "lmkd.replay", "lmkd.cgroup_paths"), OFFLINE),
            "lmkd.kernel": f"{OFFLINE} {RUNNING}",
            "lmkd.interop": "lmkd.ctl.pressure",
        },
    ),
    layer("proto", "lmkd_proto", "lmkd_proto msgpack"),
    layer(
        "clients/python",
        "lmkd_client",
        "lmkd_client lmkd_proto trio pytest",
        only_in={
            "trio": "lmkd_client.trio",
            "asyncio": "lmkd_client.asyncio",
            "pytest": "lmkd_client.pytest_plugin",
            "lmkd_client.pytest_plugin": "",
            "lmkd_client.testing": TESTING,
        },
    ),
)


def is_below(name: str, prefix: str) -> bool:
    if prefix.endswith("="):
        return name == prefix[:-1]
    return name == prefix or name.startswith(prefix + ".")


def find_imports(
    source: str, module: str, *, is_package: bool = False
) -> Iterator[tuple[int, str]]:
    """Yield the line and the dotted name of every import; `from a import b` is a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                kept = len(parts) - node.level + is_package
                base = ".".join([*parts[:kept], *([base] if base else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def is_allowed(name: str, module: str, rules: Layer) -> bool:
    for prefix, modules in rules.only_in:
        if is_below(name, prefix) and module not in modules:
            return False
    if any(is_below(name, prefix) for prefix in rules.refused):
        return False
    return name.split(".")[0] in STDLIB or any(is_below(name, prefix) for prefix in rules.allowed)


def modules_of(rules: Layer) -> dict[str, Path]:
    """Return the modules of a layer by dotted name; none where it does not exist yet."""
    base = (ROOT / rules.root).joinpath(*rules.package.split("."))
    if base.with_suffix(".py").exists():
        return {rules.package: base.with_suffix(".py")}
    return {
        ".".join(path.relative_to(ROOT / rules.root).with_suffix("").parts).removesuffix(
            ".__init__"
        ): path
        for path in sorted(base.rglob("*.py"))
    }


@pytest.mark.parametrize("rules", LAYERS, ids=[rules.package for rules in LAYERS])
def test_a_layer_imports_only_what_lies_below_it(rules: Layer) -> None:
    modules = modules_of(rules)
    if not modules:
        pytest.skip(f"{rules.package} does not exist yet")
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for module, path in modules.items()
        for line, name in find_imports(
            path.read_text(), module, is_package=path.name == "__init__.py"
        )
        if not is_allowed(name, module, rules)
    ]
    assert wrong == []


def test_every_module_of_ours_lies_in_a_layer() -> None:
    """A new package would otherwise be under no rule at all."""
    known = {path for rules in LAYERS for path in modules_of(rules).values()}
    ours = {
        path
        for package in ("lmkd", "proto/lmkd_proto", "clients/python/lmkd_client")
        for path in (ROOT / package).rglob("*.py")
    }
    assert ours - known == {ROOT / "lmkd/__init__.py"}
    assert list(find_imports((ROOT / "lmkd/__init__.py").read_text(), "lmkd")) == []


def test_trio_is_imported_only_by_kernel_modules_that_wait() -> None:
    (rules,) = [rules for rules in LAYERS if rules.package == "lmkd.kernel"]
    idle = []
    for module, path in modules_of(rules).items():
        source = path.read_text()
        waits = any(isinstance(node, ast.AsyncFunctionDef) for node in ast.walk(ast.parse(source)))
        imports = [name for _, name in find_imports(source, module)]
        if any(is_below(name, "trio") for name in imports) and not waits:
            idle.append(module)
    assert idle == []


@pytest.mark.parametrize(
    ("package", "module", "source", "allowed"),
    [
        ("lmkd.policy", "lmkd.policy.x", "from lmkd.model import Level", True),
        ("lmkd.policy", "lmkd.policy.x", "from lmkd import model", True),
        ("lmkd.policy", "lmkd.policy.x", "from . import window", True),
        ("lmkd.policy", "lmkd.policy.x", "from ..model import Level", True),
        ("lmkd.policy", "lmkd.policy.x", "from ..kernel import files", False),
        ("lmkd.policy", "lmkd.policy.x", "from lmkd import kernel", False),
        ("lmkd.policy", "lmkd.policy.x", "import os.path", False),
        ("lmkd.policy", "lmkd.policy.x", "from time import monotonic", False),
        ("lmkd.policy", "lmkd.policy.x", "def f():\n    import random", False),
        ("lmkd.policy", "lmkd.policy.x", "import msgpack", False),
        ("lmkd.kernel", "lmkd.kernel.x", "from lmkd.policy import heart", False),
        ("lmkd.kernel", "lmkd.kernel.x", "import rich.table", False),
        ("lmkd.kernel", "lmkd.kernel.x", "import lmkd_proto", False),
        ("lmkd.service", "lmkd.service.x", "from lmkd.kernel import files", True),
        ("lmkd.service", "lmkd.service.x", "import lmkd", True),
        ("lmkd.service", "lmkd.service.x", "import lmkd.ctl", False),
        ("lmkd.service", "lmkd.service.x", "from lmkd.ctl import tables", False),
        ("lmkd.service", "lmkd.service.x", "if X:\n    import lmkd_client", False),
        ("lmkd_proto", "lmkd_proto.x", "import lmkd.model", False),
        ("lmkd_proto", "lmkd_proto.x", "import trio", False),
        ("lmkd_client", "lmkd_client.trio", "import trio", True),
        ("lmkd_client", "lmkd_client.session", "import trio", False),
        ("lmkd_client", "lmkd_client.session", "from lmkd.model import Level", False),
        ("lmkd_client", "lmkd_client.listener", "import lmkd_client.testing", False),
        ("lmkd_client", "lmkd_client.testing.fake_lmkd", "import pytest", False),
    ],
)
def test_the_rules_know_a_wrong_import_from_a_right_one(
    package: str, module: str, source: str, allowed: bool
) -> None:
    (rules,) = [rules for rules in LAYERS if rules.package == package]
    ((_, name),) = find_imports(source, module)
    assert is_allowed(name, module, rules) is allowed
