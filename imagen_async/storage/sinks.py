"""What takes one image's bytes while they arrive."""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING

from imagen_async.storage import disk

if TYPE_CHECKING:
    from collections.abc import Iterator

SMALL = 64 * 1024
"""Bytes of an image that wait in memory: for more of them, or until the image is kept."""


class MemorySink:
    """One image in memory, in pieces: joining them once costs half of a buffer that grows."""

    __slots__ = ("_pieces", "size")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.size: int = 0

    def write(self, data: bytes | memoryview, /) -> None:
        """Append bytes; a view is copied, since its buffer may be used again."""
        self.size += len(data)
        self._pieces.append(bytes(data))

    def close(self) -> None:
        """Keep the pieces."""

    def discard(self) -> None:
        """Drop the pieces."""
        self._pieces.clear()

    def taken(self) -> bytes:
        """Return the image's bytes, and let go of the pieces."""
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data


class FileSink:
    """One image on its way into a hidden file, written straight from the event loop.

    64 KiB go to the page cache in microseconds, far less than a hop to a thread; but creating a
    file takes longer than that, so a small image waits in memory for the thread that will sync it
    anyway; so does one for which no descriptor is free. What the disk does not take goes back to
    memory, and why is kept for later: the decoder that feeds the sink has other images to save.
    """

    __slots__ = (
        "_descriptor",
        "_digest",
        "_folder",
        "_gone",
        "_pieces",
        "_stored",
        "_waiting",
        "part",
        "problem",
        "size",
    )

    def __init__(self, folder: str, digest: str) -> None:
        self._folder = folder
        self._digest = digest
        self._descriptor = -1
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._stored = 0
        self._gone = False
        self.part: str | None = None
        self.problem: str | None = None
        self.size: int = 0

    def write(self, data: bytes | memoryview, /) -> None:
        """Append bytes; the file is created once they are more than a small image has."""
        if self._gone:
            return
        self._pieces.append(bytes(data))
        self.size += len(data)
        self._waiting += len(data)
        if self._waiting > SMALL and self.problem is None:
            self._flush()

    @contextlib.contextmanager
    def view(self) -> Iterator[bytes | mmap.mmap]:
        """Show the bytes of a closed sink, in memory or mapped; a mapped file is open after this.

        Raises:
            OSError: If the file cannot be read.
        """
        if self.part is None:
            yield self.whole()
            return
        self._descriptor = disk.reopen(self.part)
        try:
            view = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)
        except OSError:  # it takes a second descriptor
            yield disk.read_back(self._descriptor, self.size)
            return
        with view:
            yield view

    def whole(self) -> bytes:
        """Return the bytes of an image that is in memory."""
        if len(self._pieces) != 1:
            self._pieces = [b"".join(self._pieces)]
        return self._pieces[0]

    def store(self) -> None:
        """Create the file of an image that is in memory, for a thread; it is open after this.

        Its bytes stay in memory too, until it has its name.

        Raises:
            OSError: If the disk does not take it.
        """
        if self.part is None:
            self._descriptor, self.part = disk.open_part(self._folder, self._digest)
            try:
                disk.write_all(self._descriptor, self.whole())
            except BaseException:
                self._drop()
                raise

    def sync(self) -> None:
        """Make the open file's bytes survive a power cut and close it, for a thread.

        Raises:
            OSError: If the disk does not take it.
        """
        disk.sync(self._descriptor)
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)

    def close(self) -> None:
        """Close the file; a paid image must not wait for a free descriptor."""
        if self._stored and self._pieces and self.problem is None:
            self._flush()
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0:
            return
        try:
            os.close(descriptor)
        except disk.TROUBLE as error:
            self.fail(error)

    def discard(self) -> None:
        """Remove the file; calling it twice, or after ``close``, is fine."""
        self._gone = True
        self._pieces.clear()
        self._drop()

    @property
    def ended(self) -> bool:
        """Whether the file holds all that came."""
        return self._stored == self.size

    def fail(self, error: Exception | None = None) -> None:
        """Remember why the disk does not take it, and take the bytes back from the file.

        A file that cannot be read now is left where it is.
        """
        if error is not None and self.problem is None:
            self.problem = disk.cannot_write(self._folder, error)
        if self.part is not None and self._stored > 0:
            try:
                if self._descriptor < 0:
                    self._descriptor = disk.reopen(self.part)
                self._pieces.insert(0, disk.read_back(self._descriptor, self._stored))
                self._stored = 0
            except disk.TROUBLE:
                part = Path(self.part)
                if part.is_file() and not part.is_symlink():
                    return
                self._pieces.clear()
        self._drop()

    def _drop(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(*disk.TROUBLE):
                os.close(descriptor)
        part, self.part = self.part, None
        if part is not None:
            disk.remove(part)

    def _flush(self) -> None:
        try:
            if self.part is None:
                self._descriptor, self.part = disk.open_part(self._folder, self._digest)
            disk.write_all(self._descriptor, b"".join(self._pieces))
        except disk.TROUBLE as error:
            if self.part is not None or not disk.is_scarce(error):
                self.fail(error)
            return
        self._pieces.clear()
        self._stored, self._waiting = self.size, 0
