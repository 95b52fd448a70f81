"""Streams of outcomes that blocking code reads: the source on one side, the loop on the other.

    the reader's thread           between                 the loop
    -------------------           -------                 --------
    __enter__                     job of _live ---------> the stream is entered: workers, on_demand
    __next__: _pull, next(source)
                 items, an end -> feed, a _tell --------> _collect: the workers settle the items
              waits  <----------- job of _exchange -----> until one is settled, or one is on_demand
              takes  <----------- _ready <--------------- settled: read, not yet counted
              yields, counts ---> _yielded -------------> _collect: as many may be pulled again
    __exit__: waits for _live <-- _leave ---------------> the stream is left by its task

The reader alone pulls and yields, the loop alone settles and counts. ``feed``, ``_ready`` and
``_yielded`` cross the threads; each is added to on one side and taken from on the other.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import deque
from collections.abc import AsyncIterable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio

from imagen_async.blocking.portal import Job
from imagen_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Self

    from imagen_async.batch.run import Run
    from imagen_async.blocking.portal import Portal
    from imagen_async.session.stream import Outcome, Stream

S = TypeVar("S", bound="Stream[Any] | Run")

COALESCE_SECONDS = 0.0001
"""Seconds that an outcome waits for others to cross the threads with it."""
SLOW = 0.01
"""Seconds; a source that took longer is not asked again while there are outcomes to read."""


class _Feed:
    """A blocking source's items as an async iterator.

    The reader's thread adds ``items`` and then sets an ``end``; all else happens on the loop.
    """

    def __init__(self) -> None:
        self.items: deque[Any] = deque()
        self.end: Exception | None = None
        self._given = False
        self._waiting = False
        self._on_demand: Callable[[], None] | None = None
        self._fed = asyncio.Event()

    def __len__(self) -> int:
        """How many items may be on their way; the last one given is until another is asked for."""
        return len(self.items) + (self._given and not self._waiting)

    def wake(self) -> None:
        """Give what was added since the last time."""
        if self.items or self.end is not None:
            self._waiting = False
            self._fed.set()

    def when_waiting(self, function: Callable[[], None]) -> None:
        """Call a function once an item is asked for and none is here, which may be now."""
        self._on_demand = function
        if self._waiting:
            function()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        while True:
            end = self.end  # first: all items are there once it is set
            if self.items:
                self._given = True
                return self.items.popleft()
            if end is not None:
                raise end
            self._waiting = True
            self._fed.clear()
            if self._on_demand is not None:
                self._on_demand()
            await self._fed.wait()


class BlockingStream(Generic[S]):
    """A context manager over an iterator of outcomes, driven from blocking code.

    A plain iterable is advanced in the reader's thread, inside ``__next__``: it may block without
    holding up what is in flight. Outcomes cross the threads several at a time. Never more than
    ``bound`` items are between being pulled and being yielded.

    Args:
        owner: Of the portal, which lasts as long as that.
        portal: Where the async side runs.
        source: Items; one that is async is read on the loop.
        open_stream: Makes the async side of an async iterable.
        bound: Items pulled and not yet yielded, at most.
        limit: Items pulled at all; None for no limit.
        dropped: Told, on the loop, of each outcome that was taken and never yielded.
    """

    def __init__(
        self,
        owner: object,
        portal: Portal,
        source: Iterable[Any] | AsyncIterable[Any],
        open_stream: Callable[[Any], S],
        bound: int,
        *,
        limit: int | None = None,
        dropped: Callable[[Outcome], None] = lambda _: None,
    ) -> None:
        self._owner = owner
        self._portal = portal
        self._feed = _Feed()
        # What is async, or what the async side will refuse, is for the async side.
        plain = isinstance(source, Iterable) and not isinstance(
            source, (str, bytes, Mapping, AsyncIterable)
        )
        self._stream = open_stream(self._feed if plain else source)
        self._block: AbstractAsyncContextManager[object] = self._stream
        self._source: Iterator[Any] | None = None
        if isinstance(source, Iterable) and plain:
            self._source = iter(source) if limit is None else itertools.islice(source, limit)
        self._bound = self._room = bound
        self._dropped = dropped
        self._told = False
        self._yielded = self._released = 0
        self._slow = False
        self._ready: deque[Outcome] = deque()
        self._entered = threading.Event()
        self._leaving = asyncio.Event()
        self._job: Job[None] | None = None

    def __enter__(self) -> Self:
        job = Job(self._live)
        self._portal.enter(job, self._entered)
        self._job = job
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        job, self._job = self._job, None
        if job is not None:
            self._portal.leave(job, partial(self._leave, error))

    def __iter__(self) -> Iterator[Outcome]:
        return self

    def __next__(self) -> Outcome:
        if self._job is None:
            raise ConfigurationError("Use it in a with block: `with ... as outcomes:`.")
        if self._ready and not self._slow and 2 * (self._yielded - self._released) >= self._bound:
            self._pull()
            self._tell()
        while not self._ready:
            self._pull()
            if not self._portal.call(self._exchange):
                raise StopIteration
        self._room += 1
        self._yielded += 1
        return self._ready.popleft()

    def _leave(self, error: BaseException | None) -> None:  # noqa: ARG002 - for subclasses
        """Let the block end; on the loop."""
        self._leaving.set()

    async def _live(self) -> None:
        """Be inside the stream: its tasks must be left by the task that entered them."""
        try:
            async with self._block:
                self._entered.set()
                await self._leaving.wait()
        finally:
            for outcome in self._ready:
                self._dropped(outcome)

    async def _exchange(self) -> bool:
        """Give items and get outcomes, if only there are some or no more items; False at the end.

        It also returns when an item is asked for and none is left to give.
        """
        self._collect()
        more = True
        with anyio.CancelScope() as scope:
            self._feed.when_waiting(scope.cancel)
            more = await self._stream.wait()
            if more:
                await asyncio.sleep(COALESCE_SECONDS)
        # Not by way of the result, which Ctrl-C may lose.
        self._ready.extend(self._stream.pop(self._bound))
        self._room = self._bound - self._stream.unread - len(self._feed)
        return more

    def _pull(self) -> None:
        """Advance the source as far as the bound allows, or until it takes long."""
        slow = time.monotonic() + SLOW
        while self._source is not None and self._room > 0:
            try:
                self._feed.items.append(next(self._source))
                self._room -= 1
            except StopIteration:
                self._source, self._feed.end = None, StopAsyncIteration()
            except Exception as error:  # noqa: BLE001 - raised where the async side's would be
                self._source, self._feed.end = None, error
            # At once, for the next item may take for ever.
            self._tell()
            self._slow = time.monotonic() > slow
            if self._slow:
                return

    def _pull_all(self) -> None:
        self._feed.items.extend(self._source or ())
        self._source, self._feed.end = None, StopAsyncIteration()

    def _tell(self) -> None:
        """Let the loop collect, once for all that it has not collected yet."""
        if not self._told:
            self._told = True
            self._portal.soon(self._collect)

    def _collect(self) -> None:
        """Take over what was pulled and yielded since the last time; on the loop."""
        self._told = False
        self._feed.wake()
        if yielded := self._yielded - self._released:
            self._released += yielded
            self._stream.release(yielded)
