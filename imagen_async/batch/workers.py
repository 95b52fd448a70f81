"""How many workers of a batch in shards run at once: each holds a place, so that rates add up.

A place is a file's exclusive lock, which SQLite takes as it takes that of a journal: it goes with
the process that holds it.
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

from imagen_async.errors import ConfigurationError
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class NoPlaceError(ConfigurationError):
    """As many workers run as may."""


@contextlib.contextmanager
def worker_place(root: Path, workers: int) -> Iterator[int]:
    """Hold one of the places that a batch's workers have, and yield its number.

    Args:
        root: The folder over the shards' folders, which exists.
        workers: How many there may be.

    Raises:
        NoPlaceError: If all places are held.
        ConfigurationError: If workers run that were told another number.
    """
    shown = printable(str(root), 300)
    with contextlib.ExitStack() as stack:
        for number in range(workers):
            if take(root / _name(number, workers), stack):
                break
        else:
            raise NoPlaceError(f"{workers} workers run in {shown}, and no more may.")
        # After the own one is held: of two with other numbers that begin at once, one sees one.
        for path in sorted(root.glob(".worker-*-of-*[0-9]")):
            with contextlib.ExitStack() as look:
                if not path.name.endswith(f"-of-{workers:04}") and not take(path, look):
                    raise ConfigurationError(
                        f"Workers run in {shown} that divide the rate by another number than "
                        f"{workers}; give the same number to all, or wait until they end."
                    )
        yield number


def _name(number: int, workers: int) -> str:
    return f".worker-{number:04}-of-{workers:04}"


def take(path: Path, stack: contextlib.ExitStack) -> bool:
    """Lock a file, made if need be, until the stack is left; False if another process has it.

    Raises:
        ConfigurationError: If it cannot be locked.
    """
    connection = None
    try:
        connection = sqlite3.connect(path, isolation_level=None, timeout=0, check_same_thread=False)
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        if connection is not None:
            connection.close()
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise ConfigurationError(
                f"{printable(str(path), 300)} cannot be locked; its folder must be writable, on a "
                "disk that locks files."
            ) from None
        return False
    stack.callback(connection.close)
    return True
