"""Whether a disk that several machines share keeps a lock among them, as far as it can be told."""

from __future__ import annotations

import contextlib
from pathlib import Path, PurePosixPath
from typing import Final

_ONE_MACHINE: Final = frozenset(
    {"nolock", "local_lock=all", "local_lock=posix", "localflock", "nobrl"}
)
"""Options of NFS, Lustre and SMB by which a lock holds on the machine that took it alone."""
_NO_LOCKS: Final = frozenset(
    f"fuse.{name}" for name in ("s3fs", "gcsfuse", "goofys", "rclone", "mountpoint-s3", "geesefs")
)
"""File systems over an object store, which knows no locks."""


def lock_problem(mounts: str, folder: PurePosixPath) -> str | None:
    """Return why a lock in a folder does not keep other machines out, or None.

    Args:
        mounts: What is mounted, as ``/proc/mounts`` tells; the last mount of a place counts.
        folder: An absolute path with no symbolic links.
    """
    best, kind, options = -1, "", ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 4:
            continue
        place = PurePosixPath(fields[1].replace("\\040", " "))
        if folder.is_relative_to(place) and len(place.parts) >= best:
            best, kind, options = len(place.parts), fields[2], fields[3]
    if kind in _NO_LOCKS:
        return f"{kind} keeps no locks"
    found = _ONE_MACHINE.intersection(options.split(","))
    return f"{kind} is mounted with {min(found)}" if found else None


def shared_lock_problem(folder: Path) -> str | None:
    """Return why a lock in a folder does not keep other machines out; None if it cannot be told."""
    with contextlib.suppress(OSError, ValueError):
        mounts = Path("/proc/mounts").read_text("utf-8", "surrogateescape")
        return lock_problem(mounts, PurePosixPath(folder.resolve()))
    return None
