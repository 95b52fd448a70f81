"""WebDataset: tar files in which the files of a sample share a key and follow each other."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING, Any

from imagen_async.batch import lists

if TYPE_CHECKING:
    from pathlib import Path

_COPY_BYTES = 1 << 20


class TarShard:
    """One tar file; the same samples give the same bytes.

    Args:
        path: Of the file, which is made.
    """

    def __init__(self, path: Path) -> None:
        # USTAR, since a member has no time and no owner, and its name is short ASCII.
        self._tar = tarfile.TarFile(path, "x", format=tarfile.USTAR_FORMAT, copybufsize=_COPY_BYTES)

    def add(self, key: str, row: dict[str, Any], image: bytes, suffix: str) -> None:
        """Add a sample: the image and its row as JSON, in the order of their names."""
        members = {f"{key}{suffix}": image, f"{key}.json": lists.line(row)}
        for name, data in sorted(members.items()):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            self._tar.addfile(member, io.BytesIO(data))

    def close(self) -> None:
        """Write what waits and end the file."""
        self._tar.close()
