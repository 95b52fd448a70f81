"""A folder that is there whole or not at all, and replaces only what it knows it wrote.

``.NAME.part`` is filled under a lock and renamed at the end. Where an earlier one stands, two
renames are needed; a process that dies between them leaves the earlier one as ``.NAME.old``,
and the next one puts it back.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from typing import TYPE_CHECKING, Any

from imagen_async.errors import ConfigurationError
from imagen_async.storage import disk
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MARK = "export.json"
"""The file that says what a whole folder holds; its ``files`` are what may be replaced."""


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a hidden folder to fill, which takes its name if nothing was raised.

    Args:
        target: The folder's name to be, without links in it.

    Yields:
        The folder to fill; ``finish`` is to be called on it.

    Raises:
        ConfigurationError: If what has the name is no folder of ours, or is being written.
        OSError: If the disk fails; what was there stays.
    """
    part, old = (target.with_name(f".{target.name}{end}") for end in (disk.PART, ".old"))
    part.mkdir(parents=True, exist_ok=True)
    lock = _lock(part)
    try:
        _put_back(old, target)
        _check(target)
        for left in part.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield part
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        part.rename(target)
    except BaseException:
        _put_back(old, target)
        shutil.rmtree(part, ignore_errors=True)
        raise
    finally:
        os.close(lock)
    disk.sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _put_back(old: Path, target: Path) -> None:
    if old.exists() and not target.exists():
        old.rename(target)


def finish(part: Path, told: Mapping[str, Any]) -> None:
    """Write what a folder holds and make its files survive a power cut."""
    files = sorted(_files(part))
    for name in files:
        with (part / name).open("rb+") as file:
            disk.sync(file.fileno())
        disk.sync_folder((part / name).parent)
    text = json.dumps({**told, "files": files}, indent=1) + "\n"
    with (part / MARK).open("x") as file:
        file.write(text)
        file.flush()
        disk.sync(file.fileno())
    disk.sync_folder(part)


def _files(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if not path.is_dir() or path.is_symlink():
            yield path.relative_to(folder).as_posix()


def _lock(part: Path) -> int:
    """Hold a folder against other processes; a file system without such locks is trusted."""
    lock = os.open(part, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever held it may have renamed the folder since it was opened here.
        held_elsewhere = not os.path.samestat(os.fstat(lock), part.stat())
    except OSError as error:
        held_elsewhere = isinstance(error, (BlockingIOError, FileNotFoundError))
    if held_elsewhere:
        os.close(lock)
        raise ConfigurationError(
            f"{_shown(part)} is being filled by another export; wait for it or stop it."
        )
    return lock


def _check(target: Path) -> None:
    """Refuse to replace anything but what an earlier export wrote, and that alone."""
    if target.is_dir():
        foreign = set(_files(target)) - {MARK, *_written(target / MARK)}
        if not foreign:
            return
        found = f"holds {printable(min(foreign), 300)}, which no export wrote"
    elif target.exists():
        found = "is a file"
    else:
        return
    raise ConfigurationError(f"{_shown(target)} {found}; choose another folder.")


def _written(mark: Path) -> list[str]:
    try:
        files = json.loads(mark.read_bytes())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [name for name in files if isinstance(name, str)] if isinstance(files, list) else []


def _shown(path: Path) -> str:
    return printable(str(path), 300)
