"""The pytest fixture `lmkd`: a fake lmkd for the test of a program, which finds it by LMKD_SOCKET.

    def test_what_it_does_at_critical(lmkd):
        start_my_program()
        assert lmkd.notice("critical", target_bytes=64 << 20).answer == "done"

pytest loads it by itself where lmkd-client is installed, and it loads the client only when a test asks for the
fixture. What the fake can say is in lmkd_client.testing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

TYPE_CHECKING = False  # see lmkd_proto.fields
if TYPE_CHECKING:
    from lmkd_client.testing import FakeLmkd

PATH_MOST_BYTES = 107
"""Of a Unix socket's path (unix(7))."""


@pytest.fixture
def lmkd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLmkd]:
    """A fake lmkd, at level normal; programs that this test starts, in this process or another, find it."""
    from lmkd_client.testing import FakeLmkd

    with ExitStack() as stack:
        path = str(tmp_path / "lmkd")
        if len(path.encode()) > PATH_MOST_BYTES:
            path = f"{stack.enter_context(tempfile.TemporaryDirectory(prefix='lmkd-'))}/lmkd"
        monkeypatch.setenv("LMKD_SOCKET", path)
        yield stack.enter_context(FakeLmkd(path))
