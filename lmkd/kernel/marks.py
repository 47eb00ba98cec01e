"""What others wrote on cgroups: the marks that systemd-oomd and oomd choose by, and the notes they leave of a kill.

All are extended attributes of the cgroup's directory. A mark counts when its value is what systemd's parse_boolean
takes for true. What a mark is worth is for lmkd.policy to say.

Whose marks count is systemd's rule (oomd_fetch_cgroup_oom_preference, src/oom/oomd-util.c, v255): those named `user.`
on a cgroup that root owns, or whose owner also owns the cgroup that is being watched, which for us is the domain that
is scanned, and for the system the root of the mount. So nobody can exempt himself from what protects all, and in a
domain of his own he can. Those named `trusted.` take CAP_SYS_ADMIN to write, and count always; they take it to be seen
as well.

systemd looks at the groups alone that it chooses between. We choose between processes, so a mark speaks for the
whole subtree, and of several on the way up to the root the strongest counts, above the domain too: what is exempt
does not change with who asks. A cgroup whose name is not UTF-8 has no marks of its own here.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from lmkd.cgroup_paths import paths_up
from lmkd.kernel import files
from lmkd.kernel.cgroups import cgroup_directory
from lmkd.model import Mark

_OWNED_MARKS: Final = {"user.oomd_omit": Mark.OMIT, "user.oomd_avoid": Mark.AVOID}
_TRUSTED_MARKS: Final = {"trusted.oomd_avoid": Mark.AVOID, "trusted.oomd_prefer": Mark.PREFER}
_STRONGEST_FIRST: Final = (Mark.OMIT, Mark.AVOID, Mark.PREFER, Mark.NONE)
_TRUE: Final = frozenset({b"1", b"yes", b"y", b"true", b"t", b"on"})  # src/basic/parse-util.c

_OOMS: Final = "user.oomd_ooms"
_KILLED: Final = "user.oomd_kill"
_KILL_ID: Final = "user.oomd_kill_uuid"
_REFUSED: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.EOPNOTSUPP, errno.ENOSPC, errno.E2BIG}
)


def strongest(one: Mark, other: Mark) -> Mark:
    """Return which of two marks counts: omit before avoid before prefer."""
    return min(one, other, key=_STRONGEST_FIRST.index)


class Marks:
    """The marks of cgroups as one scan of a domain sees them; each cgroup is looked at once."""

    __slots__ = ("_domain", "_domain_owner", "_found", "_mount")

    def __init__(self, mount: str, domain: str = "/") -> None:
        self._mount = mount
        self._domain = domain
        self._domain_owner: int | None = None
        self._found: dict[str, Mark] = {}

    def find(self, path: str) -> Mark:
        """Return the strongest mark on a cgroup and all above it; Mark.NONE when it is gone."""
        below: list[str] = []  # no recursion: whoever may make cgroups decides how deep they lie
        for each in paths_up(path):
            if each in self._found:
                break
            below.append(each)
        else:
            each = below.pop()
            self._found[each] = self._read(each)
        found = self._found[each]
        while below:
            each = below.pop()
            found = self._found[each] = strongest(found, self._read(each))
        return found

    def _read(self, path: str) -> Mark:
        directory = cgroup_directory(self._mount, path)
        if directory is None:
            return Mark.NONE
        try:
            # One call for the many that have none; asking for each name would be four.
            names = os.listxattr(directory)
            on_it = [
                mark
                for marks in (_OWNED_MARKS, _TRUSTED_MARKS)
                for name, mark in marks.items()
                if name in names
                and _is_true(os.getxattr(directory, name))
                and (marks is _TRUSTED_MARKS or self._may_mark(directory))
            ]
        except OSError:  # gone meanwhile, or attributes are not supported: as systemd, no mark
            return Mark.NONE
        return min(on_it, key=_STRONGEST_FIRST.index, default=Mark.NONE)

    def _may_mark(self, directory: str) -> bool:
        owner = os.stat(directory).st_uid
        if owner == 0:
            return True
        if self._domain_owner is None:
            domain = cgroup_directory(self._mount, self._domain)
            self._domain_owner = 0 if domain is None else os.stat(domain).st_uid
        return owner == self._domain_owner


def _is_true(value: bytes) -> bool:
    return value.partition(b"\0")[0].lower() in _TRUE


def note_kill(mount: str, path: str, processes: int, kill_id: str) -> bool:
    """Count a kill on its cgroup as systemd-oomd and oomd do; False when it is gone, or may not be written.

    user.oomd_ooms goes up by one, user.oomd_kill by the number of processes, user.oomd_kill_uuid names the kill.
    What is no number there counts as none.
    """
    directory = cgroup_directory(mount, path)
    if directory is None:
        return False
    try:
        for name, more in ((_OOMS, 1), (_KILLED, processes)):
            os.setxattr(directory, name, str(_read_count(directory, name) + more).encode())
        os.setxattr(directory, _KILL_ID, kill_id.encode())
    except OSError as error:
        if files.is_vanished(error) or error.errno in _REFUSED:
            return False
        raise
    return True


def _read_count(directory: str, name: str) -> int:
    try:
        value = os.getxattr(directory, name)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return 0
        raise
    return int(value) if value.isdigit() and len(value) <= 20 else 0
