"""The few blocking steps that put bytes on a disk: whole, durable, and never over another file.

Each raises OSError as the system gave it. What a crash can leave behind is a hidden ``.part``
file; a name without that ending is always whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import sys
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias, TypeVar

from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

StrPath: TypeAlias = "str | os.PathLike[str]"
"""Plain text on the way of every image: pathlib costs as much as the system calls do."""
_P = TypeVar("_P", bound=StrPath)

PART = ".part"
"""How the names of unfinished files end; they also begin with a dot."""
PATIENCE = 5.0
"""Seconds that a thread waits for a free descriptor."""
TROUBLE = (OSError, MemoryError, RuntimeError, ImportError, ValueError)
"""What the machine may throw at any step; it must not cost an image that is here."""

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP}
_SCARCE = {errno.EMFILE, errno.ENFILE}
_PAUSE = 0.02

_unsynced_folders: set[Path] = set()
# Folders of this process that a power cut may still take. Shared by all who write: one file's
# durability hangs on a folder that another call has made.
_waits = threading.local()
_numbers = random.Random()  # noqa: S311 - a name, not a secret
# Asks the system for nothing, so that a thread keeps the interpreter; a name that is taken by
# chance is not opened. A forked child would go on with the same numbers.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_numbers.seed)
_gave_up = float("-inf")


if sys.platform == "darwin":
    import fcntl

    def sync(descriptor: int) -> None:
        """Make a file's bytes survive a power cut; macOS's own fsync stops at the drive's cache."""
        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        except OSError as error:
            if error.errno not in {errno.ENOTSUP, errno.EINVAL, errno.ENOTTY}:
                raise
            os.fsync(descriptor)

else:

    def sync(descriptor: int) -> None:
        """Make a file's bytes survive a power cut."""
        os.fsync(descriptor)


def open_part(folder: str, digest: str) -> tuple[int, str]:
    """Create a hidden file for one image, and the folder if it is missing.

    Args:
        folder: Where the finished file will be: a rename does not cross file systems.
        digest: Begins the name, so that a leftover tells whose it was.

    Returns:
        A descriptor to write to, and the file's path.
    """
    part = os.path.join(folder, f".{digest}-{_numbers.getrandbits(64):016x}{PART}")  # noqa: PTH118
    try:
        return _open(part, _NEW | _BINARY), part
    except FileNotFoundError:
        _make_folder(Path(folder))
        return _open(part, _NEW | _BINARY), part


def open_private(path: Path, mode: str, buffering: int = -1) -> IO[bytes]:
    """Open a file of prompts and a gateway's words: one that this makes is for its owner alone."""
    return open(path, mode, buffering, opener=lambda name, flags: os.open(name, flags, 0o600))


def write_all(descriptor: int, data: bytes | memoryview) -> int:
    """Write all of a buffer and return its size in bytes."""
    view = memoryview(data)
    written = os.write(descriptor, view)
    while written < view.nbytes:
        # Only a disk that is nearly full, or a file size limit, takes a part; then it says why.
        written += os.write(descriptor, view[written:])
    return written


def reopen(part: StrPath) -> int:
    """Return a descriptor of a part file for reading it and for syncing it."""
    # Windows syncs only what is open for writing.
    return _open(part, os.O_RDWR | _BINARY | getattr(os, "O_NOFOLLOW", 0))


def read_back(descriptor: int, size: int) -> bytes:
    """Return the first bytes of an open file.

    Raises:
        OSError: If there are fewer.
    """
    os.lseek(descriptor, 0, os.SEEK_SET)
    pieces = []
    while size > 0:
        pieces.append(os.read(descriptor, size))
        if not pieces[-1]:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        size -= len(pieces[-1])
    return b"".join(pieces)


def read_file(path: StrPath) -> bytes:
    """Return all bytes of a file."""
    descriptor = _open(path, os.O_RDONLY | _BINARY)
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


@contextlib.contextmanager
def patient() -> Iterator[None]:
    """Let what is opened in this block wait for a free descriptor: sockets give theirs back soon.

    Not on a thread whose loop would stand still, nor while others have just waited in vain.
    """
    now = time.monotonic()
    if asyncio._get_running_loop() is None and now > _gave_up + PATIENCE:  # noqa: SLF001 - as anyio does
        _waits.end = now + PATIENCE
    try:
        yield
    finally:
        _waits.end = 0.0


def is_scarce(error: BaseException) -> bool:
    """Return whether an error says that no descriptor is free."""
    return isinstance(error, OSError) and error.errno in _SCARCE


def place(part: StrPath, targets: Iterable[_P], *, replace: bool) -> _P:
    """Give a part file its name.

    Args:
        part: The finished part file.
        targets: The names to try; without ``replace`` the first free one is taken.
        replace: Whether to take the first one even if it exists. Links are never followed.

    Returns:
        The file's path.
    """
    for target in targets:
        if replace:
            os.replace(part, target)  # noqa: PTH105
            return target
        try:
            _link(part, target)
        except FileExistsError:
            continue
        return target
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(part))


def sync_folder(folder: StrPath) -> None:
    """Make the names in a folder survive a power cut, and the folder itself if it is new."""
    _sync_names(folder)
    if not _unsynced_folders:
        return
    real = Path(folder).resolve()
    young = [path for path in (real, *real.parents) if path in _unsynced_folders]
    for path in young:
        _sync_names(path.parent)
    _unsynced_folders.difference_update(young)  # not before all are safe: others look here too


def remove(path: StrPath) -> None:
    """Remove a file as well as can be: it is hidden, and no promise hangs on its absence."""
    with contextlib.suppress(*TROUBLE):
        os.unlink(path)  # noqa: PTH108


def cannot_write(path: StrPath, error: Exception) -> str:
    """Return one line that says what could not be written and why."""
    return f"cannot write to {printable(str(path), 1000)}: {reason(error)}"


def reason(error: Exception) -> str:
    """Return why the machine failed, a few words."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None:
        return printable(str(error) or type(error).__name__, 200)
    return f"{os.strerror(number)} ({errno.errorcode.get(number, number)})"


def _open(path: StrPath, flags: int) -> int:
    global _gave_up  # noqa: PLW0603 - one shortage for all threads
    while True:
        try:
            return os.open(path, flags, 0o666)
        except OSError as error:
            end = getattr(_waits, "end", 0.0)
            if end == 0.0 or not is_scarce(error):
                raise
            if time.monotonic() >= end:
                _gave_up = time.monotonic()
                raise
        time.sleep(_PAUSE)


def _make_folder(folder: Path) -> None:
    real = folder.resolve()
    _unsynced_folders.update(path for path in (real, *real.parents) if not path.exists())
    folder.mkdir(parents=True, exist_ok=True)


def _link(part: StrPath, target: StrPath) -> None:
    """Rename without ever replacing: a link fails if the name is taken, a rename does not."""
    try:
        os.link(part, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # FAT and some network disks know no links. A crash between these two steps leaves an
        # empty file, which is why this is not the usual way.
        os.close(_open(target, _NEW))
        try:
            os.replace(part, target)  # noqa: PTH105
        except OSError:
            remove(target)
            raise
    else:
        remove(part)


def _sync_names(folder: StrPath) -> None:
    if os.name == "nt":
        return  # a folder cannot be opened there
    descriptor = _open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        sync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)
