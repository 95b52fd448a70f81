"""What takes one image's bytes while they arrive."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from imagen_async.session import disk

if TYPE_CHECKING:
    from pathlib import Path


SMALL = 64 * 1024
"""Bytes of an image that waits in memory until it is kept."""


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

    A piece of 64 KiB goes to the page cache in microseconds, far less than a hop to a thread; but
    creating a file takes longer than that, so a small image waits in memory for the thread that
    will sync it anyway. An OSError is kept for later, since the decoder that feeds the sink has
    other images to save.
    """

    __slots__ = ("_descriptor", "_digest", "_folder", "_pieces", "part", "problem", "size")

    def __init__(self, folder: Path, digest: str) -> None:
        self._folder = folder
        self._digest = digest
        self._descriptor = -1
        self._pieces: list[bytes] = []
        self.part: Path | None = None
        self.problem: str | None = None
        self.size: int = 0

    def write(self, data: bytes | memoryview, /) -> None:
        """Append bytes; the file is created once they are more than a small image has."""
        if self.problem is not None:
            return
        self.size += len(data)
        if self.part is None and self.size <= SMALL:
            self._pieces.append(bytes(data))
            return
        try:
            if self.part is None:
                self._create()
            disk.write_all(self._descriptor, data)
        except OSError as error:
            self.fail(error)

    def gathered(self) -> bytes:
        """Return what waits in memory."""
        return b"".join(self._pieces)

    def store(self) -> Path:
        """Create the file of a small image and sync it; for a thread.

        Raises:
            OSError: If the disk does not take it; ``fail`` then removes what there is.
        """
        part = self._create()
        disk.sync(self._descriptor)
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)
        return part

    def close(self) -> None:
        """Close the file; a paid image must not wait for a free descriptor."""
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

    def _create(self) -> Path:
        self._descriptor, self.part = disk.open_part(self._folder, self._digest)
        for piece in self._pieces:
            disk.write_all(self._descriptor, piece)
        self._pieces.clear()
        return self.part
