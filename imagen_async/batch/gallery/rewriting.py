"""The gallery of a run that goes on: written anew now and then, for a bounded share of the time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Final

import attrs

from imagen_async.batch.gallery import INDEX, views, write_index, write_page
from imagen_async.errors import ConfigurationError
from imagen_async.storage import disk
from imagen_async.storage.offload import in_thread

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imagen_async.batch.gallery.card import Card
    from imagen_async.batch.gallery.columns import CardTable

LATEST: Final = 1 << 19
"""Bytes at the end of each list that the page shows: all of a large one would cost too much."""
LOOK_EVERY: Final = 0.1
"""Seconds between looks for the first image, which the page does not keep waiting."""
EVERY: Final = 2.0
"""Seconds between two writings at least."""
SHARE: Final = 0.01
"""CPU seconds of all writings after the first, per CPU second of the run's process."""
WAITING: Final = 0.25
"""What a second counts at least of a run that mostly waits for its gateway: it has CPU to spare."""


def may_write(elapsed: float, spent: float, expected: float) -> bool:
    """Return whether the page may be written again.

    Args:
        elapsed: Seconds since the run began, of which a share may be spent.
        spent: CPU seconds of the writings so far.
        expected: CPU seconds of the next one; those of the last, for a page has a bounded size.
    """
    return spent + expected <= SHARE * elapsed


@attrs.define(eq=False)
class Rewriter:
    """Writes the gallery of a folder while a run adds to its lists; see ``start``.

    Args:
        folder: The run's.
    """

    folder: Path
    _ended: asyncio.Event = attrs.field(init=False, factory=asyncio.Event)
    _task: asyncio.Task[None] | None = attrs.field(init=False, default=None)
    _pages: CardTable | None = attrs.field(init=False, default=None)

    def start(self) -> None:
        """Begin, on the running loop, until ``aclose``."""
        self._task = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        """End; a writing that goes on is given up, and no other comes."""
        self._ended.set()
        if self._task is not None:
            await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.result()

    def interrupted(self) -> None:
        """Say on the page that was written last that its run was cancelled: it tells of no more.

        Raises:
            OSError: The folder cannot be written.
        """
        if self._pages is not None:
            about = views.about(self.folder, views.Doubts(phase="interrupted"))
            write_index(self.folder, about, self._pages)

    async def _run(self) -> None:
        began, cpu, took, spent, written = time.monotonic(), time.process_time(), 0.0, 0.0, 0
        first = not (self.folder / INDEX).exists()
        while not await self._ends_within(LOOK_EVERY if first else EVERY):
            size = self._size()
            elapsed = max(time.process_time() - cpu, WAITING * (time.monotonic() - began))
            if size != written and (first or may_write(elapsed, spent, took)):
                took = await in_thread(self._write)
                first, written = False, size
                spent += took

    async def _ends_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), seconds)
        return self._ended.is_set()

    def _size(self) -> int:
        found = 0
        for name in views.VIEWS.values():
            with contextlib.suppress(OSError):
                found += (self.folder / name).stat().st_size
        return found

    def _write(self) -> float:
        """Write the page and return the CPU seconds of it; one that fails is left to the end."""
        began, running = time.thread_time(), views.Doubts(phase="running")
        with contextlib.suppress(ConfigurationError, *disk.TROUBLE):
            about = views.about(self.folder, running)
            self._pages = write_page(self.folder, self._cards(running), about)
        return time.thread_time() - began

    def _cards(self, running: views.Doubts) -> Iterator[Card]:
        for card in views.cards(self.folder, running, last=LATEST):
            if self._ended.is_set():
                raise InterruptedError  # the run is over: its end writes the page
            yield card
