"""Blocking work off the loop: a thread for each large file, one visit to a thread for many small.

A hand-over between threads costs more CPU than writing a small image does, and what a file
system commits for one new file it mostly commits for all that are new.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from imagen_async.storage import disk

T = TypeVar("T")
Steps: TypeAlias = Generator[str | None, Exception | None, T]
"""Blocking work that stops before each wait for the disk, so that others can write first.

It may yield a folder, to have its names made durable; what it is sent then is why they are not.
"""

WRITERS = 8
"""Threads that sync and rename at once: more only queue at the disk, and each holds memory."""
TOGETHER = 32
"""Works of one visit: each may hold a file open."""

_writers: RunVar[anyio.CapacityLimiter] = RunVar("imagen_async_writers")
_lane: RunVar[_Batcher] = RunVar("imagen_async_lane")


async def in_thread(work: Callable[[], T]) -> T:
    """Run blocking work where it does not stop the loop; anyio's cancellation waits for it.

    If no thread can be had it runs here: a loop that stands still loses no image.
    """
    limiter = _writers.get(None)
    if limiter is None:
        # A limiter belongs to its loop, and a client may live through several.
        limiter = anyio.CapacityLimiter(WRITERS)
        _writers.set(limiter)
    done: list[T] = []
    begun = False

    def run() -> T:
        nonlocal begun
        begun = True
        return work()

    with anyio.CancelScope(shield=True):
        try:
            done.append(await anyio.to_thread.run_sync(run, limiter=limiter))
        except (RuntimeError, MemoryError):
            if begun:
                raise
            done.append(work())
    return done[0]


async def run_alone(steps: Steps[T]) -> T:
    """Run steps in a thread of their own."""
    (end,) = await in_thread(lambda: finish([steps]))
    if isinstance(end, Exception):
        raise end
    return end


async def run_batched(steps: Steps[T]) -> T:
    """Run steps in one visit to a thread with all others that wait.

    Once asked for they are run, whatever becomes of the caller; anyio's cancellation waits.
    """
    lane = _lane.get(None)
    if lane is None:
        lane = _Batcher()
        _lane.set(lane)
    done: list[T] = []
    with anyio.CancelScope(shield=True):
        done.append(await lane.join(steps))
    return done[0]


def finish(works: Sequence[Steps[T]]) -> list[T | Exception]:
    """Run works side by side, the same step of each before the next; return how each ended.

    A folder that several yield at the same step is synced once for all of them.
    """
    ends: dict[int, T | Exception] = {}
    told: dict[int, Exception | None] = dict.fromkeys(range(len(works)))
    while told:
        folders: dict[int, str | None] = {}
        for place, problem in told.items():
            try:
                folders[place] = works[place].send(problem)
            except StopIteration as end:
                ends[place] = end.value
            except Exception as error:  # noqa: BLE001 - it is one caller's, not the others'
                ends[place] = error
        synced = {each: _sync(each) for each in dict.fromkeys(folders.values()) if each is not None}
        told = {at: None if each is None else synced[each] for at, each in folders.items()}
    return [ends[place] for place in range(len(works))]


def _sync(folder: str) -> Exception | None:
    try:
        with disk.patient():
            disk.sync_folder(folder)
    except disk.TROUBLE as error:
        return error
    return None


class _Batcher:
    """One visit at a time on one loop, each for all that came during the last."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Steps[Any], asyncio.Future[Any]]] = []
        self._visits: asyncio.Task[None] | None = None

    def join(self, steps: Steps[T]) -> asyncio.Future[T]:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((steps, future))
        if self._visits is None:
            self._visits = asyncio.create_task(self._visit())
        return future

    async def _visit(self) -> None:
        group: list[tuple[Steps[Any], asyncio.Future[Any]]] = []
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:TOGETHER], self._waiting[TOGETHER:]
                works = [steps for steps, _ in group]
                ends: Sequence[Any]
                try:
                    ends = await in_thread(partial(finish, works))
                except Exception as error:  # noqa: BLE001 - no thread to be had: theirs to know
                    ends = [error] * len(group)
                for (_, future), end in zip(group, ends, strict=True):
                    if future.done():
                        continue
                    if isinstance(end, Exception):
                        future.set_exception(end)
                    else:
                        future.set_result(end)
        finally:
            self._visits = None
            for _, future in (*group, *self._waiting):
                future.cancel()  # the next visit still does the work
