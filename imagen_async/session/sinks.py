"""What takes one image's bytes while they arrive."""

from __future__ import annotations

import contextlib
import mmap
import os
from typing import TYPE_CHECKING

from imagen_async.session import disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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
        """Return the image's bytes."""
        return b"".join(self._pieces)


class FileSink:
    """One image on its way into a hidden file, written straight from the event loop.

    64 KiB go to the page cache in microseconds, far less than a hop to a thread; but creating a
    file takes longer than that, so a small image waits in memory for the thread that will sync it
    anyway. An OSError is kept for later, since the decoder that feeds the sink has other images to
    save.
    """

    __slots__ = (
        "_descriptor",
        "_digest",
        "_folder",
        "_pieces",
        "_waiting",
        "part",
        "problem",
        "size",
    )

    def __init__(self, folder: Path, digest: str) -> None:
        self._folder = folder
        self._digest = digest
        self._descriptor = -1
        self._pieces: list[bytes] = []
        self._waiting = 0
        self.part: Path | None = None
        self.problem: str | None = None
        self.size: int = 0

    def write(self, data: bytes | memoryview, /) -> None:
        """Append bytes; the file is created once they are more than a small image has."""
        if self.problem is not None:
            return
        self.size += len(data)
        self._waiting += len(data)
        self._pieces.append(bytes(data))
        if self._waiting > SMALL:
            self._flush()

    @contextlib.contextmanager
    def view(self) -> Iterator[bytes | mmap.mmap]:
        """Show the bytes of a closed sink, in memory or mapped; a mapped file is open after this.

        Raises:
            OSError: If the file cannot be read; ``fail`` then removes what there is.
        """
        if self.part is None:
            yield b"".join(self._pieces)
            return
        self._descriptor = disk.reopen(self.part)
        with mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ) as view:
            yield view

    def store(self) -> None:
        """Create the file of a small image, for a thread; it is open after this.

        Raises:
            OSError: If the disk does not take it; ``fail`` then removes what there is.
        """
        if self.part is None:
            self._write_out()

    def sync(self) -> None:
        """Make the open file's bytes survive a power cut and close it, for a thread.

        Raises:
            OSError: If the disk does not take it; ``fail`` then removes what there is.
        """
        disk.sync(self._descriptor)
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)

    def close(self) -> None:
        """Close the file; a paid image must not wait for a free descriptor."""
        if self.part is not None and self._pieces:
            self._flush()
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0:
            return
        try:
            os.close(descriptor)
        except OSError as error:
            self.fail(error)

    def discard(self) -> None:
        """Remove the file; calling it twice, or after ``close``, is fine."""
        self.problem = self.problem or "it was discarded"
        self._pieces.clear()
        self.close()
        if self.part is not None:
            disk.remove(self.part)

    def fail(self, error: OSError) -> None:
        """Remove the file and remember why."""
        self.problem = disk.cannot_write(self._folder, error)
        self.discard()

    def _flush(self) -> None:
        try:
            self._write_out()
        except OSError as error:
            self.fail(error)

    def _write_out(self) -> None:
        if self.part is None:
            self._descriptor, self.part = disk.open_part(self._folder, self._digest)
        disk.write_all(self._descriptor, b"".join(self._pieces))
        self._pieces.clear()
        self._waiting = 0
