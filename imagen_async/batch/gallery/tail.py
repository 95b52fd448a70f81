"""A batch's lists, read on as they grow: each reader from where it stopped."""

from __future__ import annotations

import os
import re
from typing import IO, TYPE_CHECKING, Final

import attrs

from imagen_async.batch.gallery import views
from imagen_async.batch.gallery.card import card_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imagen_async.batch.gallery.card import Card, Status

CHUNK: Final = 1 << 20
"""Bytes of one list that are read at once."""
MOST: Final = 64 << 20
"""Bytes of one list that are read in all, which make some 150,000 cards: no browser bears more."""
_PLACE: Final = re.compile(r"\d{1,20}:\d{1,15}(-\d{1,20}:\d{1,15}){2}", re.ASCII)


@attrs.define(eq=False)
class _List:
    """One list and how far it was read.

    Args:
        status: Of its cards.
        path: Where it lies.
        inode: Which file it was; 0 for none yet.
        offset: Bytes that were read.
    """

    status: Status
    path: Path
    inode: int = 0
    offset: int = 0
    file: IO[bytes] | None = attrs.field(init=False, default=None)

    @property
    def left(self) -> int:
        """The bytes that are there to be read; none of a file that is not the one that was read."""
        if self.file is None:
            try:
                self.file = self.path.open("rb")
            except OSError:
                return 0
            found = os.fstat(self.file.fileno())
            if self.inode in (0, found.st_ino):
                self.inode = found.st_ino
            else:
                self.offset = found.st_size
        return min(os.fstat(self.file.fileno()).st_size, MOST) - self.offset

    def read(self) -> Iterator[Card]:
        """Yield the cards of whole lines that were added."""
        if self.left <= 0 or self.file is None:
            return
        self.file.seek(self.offset)
        found = self.file.read(CHUNK)
        if len(found) == CHUNK:
            found += self.file.readline(views.LINE_LIMIT)
        whole, end, _ = found.rpartition(b"\n")
        self.offset += len(whole) + len(end)
        for row in map(views.object_of, whole.splitlines()):
            if row is not None:
                yield card_of(self.status, row)

    @property
    def replaced(self) -> bool:
        """Whether another file is in the place of the one that is read."""
        try:
            return self.inode not in (0, self.path.stat().st_ino)
        except OSError:
            return False


class Tail:
    """The lists of one folder, read on by one reader.

    Args:
        folder: The batch's.
        place: Where an earlier reader stopped, as ``place`` told; anything else begins anew.
    """

    def __init__(self, folder: Path, place: str = "") -> None:
        known = place.split("-") if _PLACE.fullmatch(place) else ["0:0"] * len(views.VIEWS)
        self._lists = [
            _List(status, folder / name, *map(int, at.split(":")))
            for (status, name), at in zip(views.VIEWS.items(), known, strict=True)
        ]

    @property
    def place(self) -> str:
        """How far the lists were read."""
        return "-".join(f"{each.inode}:{each.offset}" for each in self._lists)

    def read(self) -> list[Card]:
        """Return the cards that came, a bounded number of them at once."""
        return [card for each in self._lists for card in each.read()]

    @property
    def waiting(self) -> bool:
        """Whether there is something to read."""
        return any(each.left > 0 for each in self._lists)

    @property
    def full(self) -> bool:
        """Whether a list is longer than what is read of it."""
        return any(each.offset >= MOST for each in self._lists)

    @property
    def replaced(self) -> bool:
        """Whether the lists were made anew, as each run does at its end: begin anew."""
        return any(each.replaced for each in self._lists)

    def close(self) -> None:
        """Close the files."""
        for each in self._lists:
            if each.file is not None:
                each.file.close()
