"""Write an initramfs: a cpio archive in the "newc" format that the kernel unpacks at boot.

Knows files, directories and one device; no links, owners or times, so the same files give the same bytes.
Format: Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's source.
"""

import stat
from collections.abc import Mapping
from dataclasses import dataclass

_CONSOLE_MAJOR, _CONSOLE_MINOR = 5, 1  # without /dev/console the first process has no output
_ALIGNMENT_BYTES = 4


@dataclass(frozen=True, slots=True)
class File:
    """A regular file of the archive."""

    content: bytes
    mode: int = 0o644


def pack_initramfs(directories: tuple[str, ...], files: Mapping[str, File]) -> bytes:
    """Pack the directories, then the files, and /dev/console; paths are relative to the root.

    A file's directory has to be listed, parents first, or the kernel drops the file without a word.
    """
    entries = [_pack_entry(path, stat.S_IFDIR | 0o755) for path in directories]
    console = (_CONSOLE_MAJOR, _CONSOLE_MINOR)
    entries.append(_pack_entry("dev/console", stat.S_IFCHR | 0o600, device=console))
    entries += [
        _pack_entry(path, stat.S_IFREG | file.mode, file.content) for path, file in files.items()
    ]
    entries.append(_pack_entry("TRAILER!!!", 0))
    return b"".join(entries)


def _pack_entry(
    path: str, mode: int, content: bytes = b"", *, device: tuple[int, int] = (0, 0)
) -> bytes:
    name = path.encode() + b"\0"
    inode = uid = gid = mtime = dev_major = dev_minor = checksum = 0
    links = 1
    fields = (
        *(inode, mode, uid, gid, links, mtime, len(content)),
        *(dev_major, dev_minor, *device, len(name), checksum),
    )
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _pad(header + name) + _pad(content)


def _pad(block: bytes) -> bytes:
    return block + bytes(-len(block) % _ALIGNMENT_BYTES)
