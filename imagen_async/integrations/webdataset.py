"""WebDataset: tar files in which the files of a sample share a key and follow each other."""

from __future__ import annotations

import os
import tarfile
from typing import TYPE_CHECKING, Any, Final

from imagen_async.batch import lists

if TYPE_CHECKING:
    from pathlib import Path

_BLOCK: Final = tarfile.BLOCKSIZE
_BEGIN: Final = 32 << 20
"""Bytes after which the disk is told to begin, so that it works while further images are read."""


class TarShard:
    """One tar file; the same samples give the same bytes.

    Args:
        path: Of the file, which is made.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")
        self._begun = 0

    def add(self, key: str, row: dict[str, Any], image: memoryview, suffix: str) -> None:
        """Add a sample: the image and its row as JSON, in the order of their names."""
        members: dict[str, bytes | memoryview] = {
            f"{key}{suffix}": image,
            f"{key}.json": lists.line(row),
        }
        for name, data in sorted(members.items()):
            # Of no owner and no time. TarFile would copy each image twice to write it.
            head = tarfile.TarInfo(name)
            head.size = len(data)
            self._file.write(head.tobuf(tarfile.USTAR_FORMAT))
            self._file.write(data)
            self._file.write(bytes(-len(data) % _BLOCK))
        size = self._file.tell() - self._begun
        if size >= _BEGIN and hasattr(os, "posix_fadvise"):
            self._file.flush()
            # Linux starts to write what is to be forgotten; the sync at the end then waits less.
            os.posix_fadvise(self._file.fileno(), self._begun, size, os.POSIX_FADV_DONTNEED)
            self._begun += size

    def close(self) -> None:
        """Write what waits and end the file."""
        with self._file as file:
            file.write(bytes(2 * _BLOCK))
