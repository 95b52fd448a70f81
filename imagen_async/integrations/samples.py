"""The images of runs that are done and whole, read from the runs' lists.

An item's row may be listed twice while its run goes on, and images of items that are in doubt are
listed, too. So all lists are read before the first image is: their rows go to a file, and what is
kept in memory of each is eight bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from functools import partial
from itertools import pairwise
from typing import IO, TYPE_CHECKING, Any, Final

import attrs

from imagen_async.batch import lists, schema
from imagen_async.batch.identity import IdSet
from imagen_async.errors import ConfigurationError
from imagen_async.integrations.parquet import Columns
from imagen_async.storage import disk
from imagen_async.wire.image_header import inspect, suffix
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

LINE_LIMIT: Final = 64 << 20
"""Bytes of one row; a longer line is none."""

Row = dict[str, Any]


class NotTakenError(Exception):
    """An image is left out; the text is the reason, a few words."""


@attrs.frozen
class Sample:
    """One whole image.

    Args:
        row: Of ``metadata.jsonl``; its ``file_name`` begins in the exported folder.
        image: The file's bytes, which are there until the next sample is read.
        suffix: Of the type that the bytes are of, such as ``.png``.
    """

    row: Row
    image: memoryview
    suffix: str


@attrs.frozen
class Listed:
    """The rows of all lists.

    Args:
        spool: The file that they are in, one a line.
        columns: What they hold.
        junk: How many lines were no rows.
        repeated: Digests of the images that are listed more than once.
        doubtful: Digests of the images of items that are not settled.
    """

    spool: IO[bytes]
    columns: Columns
    junk: int
    repeated: IdSet
    doubtful: IdSet


def runs_in(folder: Path) -> list[Path]:
    """Return the folder if it is a run's, else the runs' folders in it, in order.

    Raises:
        ConfigurationError: If there is none.
    """
    if (folder / schema.NAME).is_file():
        return [folder]
    try:
        found = sorted(path for path in folder.iterdir() if (path / schema.NAME).is_file())
    except OSError:
        found = []
    if not found:
        raise ConfigurationError(
            f"{printable(str(folder), 300)} holds no batch; name the folder that a batch wrote."
        )
    return found


def read_lists(folder: Path, runs: Iterable[Path], spool: IO[bytes]) -> Listed:
    """Read the lists of runs.

    Args:
        folder: What the rows' file names begin in.
        runs: The runs' folders in it.
        spool: An empty file for the rows.

    Raises:
        ConfigurationError: If a list cannot be read.
        OSError: If the disk does not take the rows.
    """
    columns, junk = Columns(), 0
    listed, doubtful = array("Q"), array("Q")
    for run in runs:
        home = run.relative_to(folder)
        for row in _rows(run / lists.METADATA):
            if row is None or not isinstance(row.get("file_name"), str):
                junk += 1
                continue
            row["file_name"] = name = (home / row["file_name"]).as_posix()
            listed.append(_digest(name))
            columns.see(row)
            spool.write(lists.line(row))
        # After the other list, to which a run that goes on writes first.
        for row in _rows(run / lists.UNKNOWN):
            files = row.get("files") if row else None
            if isinstance(files, list):
                doubtful.extend(_digest((home / str(name)).as_posix()) for name in files)
    ordered = sorted(listed)
    repeated = IdSet(a for a, b in pairwise(ordered) if a == b)
    return Listed(spool, columns, junk, repeated, IdSet(doubtful))


def samples(
    folder: Path, listed: Listed, leave_out: Callable[[str, str], None]
) -> Iterator[Sample]:
    """Yield the images that are settled and whole, in the order of the lists.

    Args:
        folder: What the rows' file names begin in, without links in its path.
        listed: What it returned.
        leave_out: Told the file name and the reason of each that is not taken.
    """
    taken: set[int] = set()
    reader = _Reader()
    listed.spool.seek(0)
    for line in listed.spool:
        row: Row = json.loads(line)
        name = row["file_name"]
        digest = _digest(name)
        if digest in listed.repeated:
            if digest in taken:
                continue
            taken.add(digest)
        if digest in listed.doubtful:
            leave_out(name, "not settled")
            continue
        try:
            sample = _load(folder, row, reader)
        except NotTakenError as error:
            leave_out(name, str(error))
        else:
            yield sample


def _load(folder: Path, row: Row, reader: _Reader) -> Sample:
    try:
        path = (folder / row["file_name"]).resolve()
        if not path.is_relative_to(folder):
            raise NotTakenError("outside the folder")
        if not path.is_file():
            raise NotTakenError("missing")
        image = reader.read(path)
    except RuntimeError:  # a link that leads to itself, before Python 3.13
        raise NotTakenError("missing") from None
    except (OSError, ValueError):
        raise NotTakenError("not readable") from None
    if row.get("bytes") not in {None, len(image)}:
        raise NotTakenError("not of the listed size")
    media = inspect(image)
    if not media.complete or media.problem:
        raise NotTakenError("not a whole image")
    return Sample(row, image, suffix(media.media_type))


class _Reader:
    """Reads files into one buffer: memory fresh from the system costs more than the copy."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def read(self, path: Path) -> memoryview:
        """Return a file's bytes, which are there until the next one is read."""
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size > len(self._buffer):  # replaced, since what is still looked at cannot grow
                self._buffer = bytearray(size)
            view = memoryview(self._buffer)[:size]
            if file.readinto(view) != size:
                raise OSError
        return view


def _rows(path: Path) -> Iterator[Row | None]:
    """Yield the rows of a list, None for each line that is none; a missing list has no rows."""
    try:
        with path.open("rb") as file:
            for line in iter(partial(file.readline, LINE_LIMIT), b""):
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                yield row if isinstance(row, dict) else None
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigurationError(
            f"{printable(str(path), 300)} cannot be read: {disk.reason(error)}."
        ) from None


def _digest(name: str) -> int:
    data = name.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())
