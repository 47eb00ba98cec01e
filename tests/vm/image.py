"""Build what the test VM boots: Debian's stock kernel and an initramfs that finds the host's root.

The kernel comes from its package, which is downloaded and unpacked but never installed. It is unpacked once
more, from bzImage to the ELF image inside: qemu starts that directly, and the guest need not do the xz
decompression in emulation.

A built image is a directory named by kernel release and content hash; it appears by a rename, whole or not at
all, and is never changed after. Knows nothing of how qemu is started.
"""

import hashlib
import lzma
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .cpio import File, pack_initramfs

_HERE = Path(__file__).parent
_REPO = _HERE.parent.parent
_META_PACKAGE = "linux-image-amd64"
_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay", "zram")
_DIRECTORIES = ("bin", "dev", "lower", "modules", "proc", "root", "sys", "upper")
_FORMAT = 1  # raise when the build itself changes in a way its inputs do not show
_XZ_MAGIC = b"\xfd7zXZ\0"


class ImageError(Exception):
    """The image cannot be built; the message says what is missing or broken."""


@dataclass(frozen=True, slots=True)
class Image:
    """A kernel and an initramfs, ready to boot."""

    kernel: Path
    initramfs: Path


def cache_dir() -> Path:
    """Return where packages and images are kept: LMKD_VM_CACHE, or .cache/vm in the repository."""
    configured = os.environ.get("LMKD_VM_CACHE")
    return Path(configured).absolute() if configured else _REPO / ".cache" / "vm"


def find_static_busybox() -> Path | None:
    """Find a busybox that needs no shared libraries, since the initramfs has none."""
    found = shutil.which("busybox")
    if found is None:
        return None
    with open(found, "rb") as file:
        start = file.read(4096)
    return None if b"/ld-linux" in start else Path(found)


def find_kernel_source() -> str | None:
    """Name the kernel package that would be used: one in the cache, or one apt can download."""
    return _resolve_package_name() or next((path.name for path in _cached_packages()), None)


def build_image() -> Image:
    """Return the image for the current kernel package and scripts, building it if it is not there."""
    busybox = find_static_busybox()
    if busybox is None:
        raise ImageError("no statically linked busybox; install busybox-static")
    package = _fetch_package()
    scripts = {
        "init": File((_HERE / "init.sh").read_bytes(), 0o755),
        "agent.sh": File((_HERE / "agent.sh").read_bytes()),
        "bin/busybox": File(busybox.read_bytes(), 0o755),
    }
    directory = cache_dir() / f"{package.stem}-{_hash_inputs(scripts)}"
    if not directory.exists():
        _build(package, scripts, directory)
    return Image(directory / "vmlinux", directory / "initramfs")


def _hash_inputs(scripts: Mapping[str, File]) -> str:
    digest = hashlib.sha256(repr((_FORMAT, _MODULES, _DIRECTORIES)).encode())
    for name, file in scripts.items():
        digest.update(name.encode() + hashlib.sha256(file.content).digest())
    return digest.hexdigest()[:12]


def _build(package: Path, scripts: Mapping[str, File], directory: Path) -> None:
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix="build-") as temporary:
        unpacked, built = Path(temporary, "package"), Path(temporary, "image")
        subprocess.run(["dpkg-deb", "-x", package, unpacked], check=True)
        built.mkdir()
        [bzimage] = unpacked.glob("boot/vmlinuz-*")
        (built / "vmlinux").write_bytes(extract_vmlinux(bzimage.read_bytes()))
        modules = _collect_modules(unpacked)
        order = "".join(f"{name}\n" for name in modules).encode()
        files = {**scripts, "modules/order": File(order)}
        files |= {f"modules/{name}": File(content) for name, content in modules.items()}
        (built / "initramfs").write_bytes(pack_initramfs(_DIRECTORIES, files))
        try:
            built.rename(directory)
        except OSError:
            if not directory.exists():  # else another test run was quicker: its image is the same
                raise


def extract_vmlinux(bzimage: bytes) -> bytes:
    """Return the ELF kernel inside a bzImage; Documentation/arch/x86/boot.rst has the offsets."""
    setup_sectors = bzimage[0x1F1]
    payload_offset, payload_bytes = struct.unpack_from("<II", bzimage, 0x248)
    start = (setup_sectors + 1) * 512 + payload_offset
    payload = bzimage[start : start + payload_bytes]
    if not payload.startswith(_XZ_MAGIC):
        raise ImageError(f"the kernel is not compressed with xz: it starts {payload[:8].hex()}")
    # One stream, and after it the unpacked size as the build appended it: LZMADecompressor stops before.
    return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(payload)


def _collect_modules(unpacked: Path) -> dict[str, bytes]:
    """Return file name to content of the modules and all they depend on, each after what it needs."""
    [root] = [*unpacked.glob("lib/modules/*"), *unpacked.glob("usr/lib/modules/*")]
    paths = {_module_name(path): path for path in root.rglob("*.ko*")}
    builtin = {_module_name(Path(line)) for line in _read_lines(root / "modules.builtin")}
    collected: dict[str, bytes] = {}

    def collect(name: str) -> None:
        if f"{name}.ko" in collected or name in builtin:
            return
        if name not in paths:
            raise ImageError(f"the kernel package has no module {name}")
        content = _read_module(paths[name])
        for dependency in parse_module_depends(content):
            collect(dependency)
        collected[f"{name}.ko"] = content

    for name in _MODULES:
        collect(name)
    return collected


def parse_module_depends(module: bytes) -> tuple[str, ...]:
    """Return the modules this one needs, from its .modinfo section (NUL-separated key=value)."""
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    if found is None:
        raise ImageError("a kernel module without a depends= entry")
    names = found.group(1).decode().split(",")
    return tuple(name.replace("-", "_") for name in names if name)


def _module_name(path: Path) -> str:
    return path.name.partition(".")[0].replace("-", "_")


def _read_lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def _read_module(path: Path) -> bytes:
    if path.suffix == ".ko":
        return path.read_bytes()
    if path.suffix == ".xz":  # Debian 13 and later
        return lzma.decompress(path.read_bytes())
    raise ImageError(f"a kernel module compressed in an unknown way: {path.name}")


def _fetch_package() -> Path:
    """Return the kernel package, from the cache if it is there, or else downloaded."""
    name = _resolve_package_name()
    cached = _cached_packages()
    for path in cached:
        if name is None or path.name.startswith(f"{name}_"):
            return path
    if name is None:
        raise ImageError(f"apt knows no {_META_PACKAGE}, and no kernel package is cached")
    try:
        return _download(name)
    except ImageError:
        if cached:
            return cached[0]
        raise


def _download(name: str) -> Path:
    cache_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir(), prefix="download-") as temporary:
        # As itself, not as the user _apt, who cannot write here.
        command = ["apt-get", "-o", "APT::Sandbox::User=root", "download", name]
        done = subprocess.run(command, cwd=temporary, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ImageError(f"{' '.join(command)}: {done.stderr.strip()} (apt-get update helps?)")
        [downloaded] = Path(temporary).iterdir()
        return downloaded.rename(cache_dir() / downloaded.name)


def _cached_packages() -> list[Path]:
    """Return the cached packages, the one downloaded last first."""
    packages = cache_dir().glob("linux-image-*.deb")
    return sorted(packages, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _resolve_package_name() -> str | None:
    if shutil.which("apt-cache") is None:
        return None
    command = ["apt-cache", "depends", _META_PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"Depends: (linux-image-\d\S+)", done.stdout)
    return found.group(1) if found else None
