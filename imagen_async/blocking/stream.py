"""Streams of outcomes that blocking code reads: the source on one side, the loop on the other."""

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
    from types import TracebackType
    from typing import Self

    from imagen_async.batch.run import Run
    from imagen_async.blocking.portal import Portal
    from imagen_async.session.many import Outcome, Stream

S = TypeVar("S", bound="Stream[Any] | Run")

LINGER = 0.0001
"""Seconds that an outcome waits for others to cross the threads with it."""
SLOW = 0.01
"""Seconds; a source that took longer is not asked again while there are outcomes to read."""


class _Feed:
    """A blocking source's items as an async iterator; all of it happens on the loop."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._end: Exception | None = None
        self._given = False
        self._hungry: Callable[[], None] | None = None
        self._fed = asyncio.Event()
        self.starving = False

    def __len__(self) -> int:
        """How many items were put and not surely taken on: the last given may be in a hand."""
        return len(self._items) + (self._given and not self.starving)

    def put(self, items: list[Any], end: Exception | None) -> None:
        """Add items; after an end nothing more comes."""
        self._items.extend(items)
        self._end = self._end or end
        if self._items or self._end is not None:
            self.starving = False
            self._fed.set()

    def when_starving(self, function: Callable[[], None]) -> None:
        """Call a function once an item is asked for and none is here, which may be now."""
        self._hungry = function
        if self.starving:
            function()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        while not self._items:
            if self._end is not None:
                raise self._end
            self.starving = True
            self._fed.clear()
            if self._hungry is not None:
                self._hungry()
            await self._fed.wait()
        self._given = True
        return self._items.popleft()


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
        self._source: Iterator[Any] | None = None
        if isinstance(source, Iterable) and plain:
            self._source = iter(source) if limit is None else itertools.islice(source, limit)
        self._bound = self._room = bound
        self._dropped = dropped
        self._pulled: deque[Any] = deque()
        self._end: Exception | None = None
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
            async with self._stream:
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
            self._feed.when_starving(scope.cancel)
            more = await self._stream.wait()
            if more:
                await asyncio.sleep(LINGER)
        # Not by way of the result, which Ctrl-C may lose.
        self._ready.extend(self._stream.pop(self._bound))
        self._room = self._bound - self._stream.unread - len(self._feed)
        return more

    def _pull(self) -> None:
        """Advance the source as far as the bound allows, or until it takes long."""
        slow = time.monotonic() + SLOW
        while self._source is not None and self._room > 0:
            try:
                self._pulled.append(next(self._source))
                self._room -= 1
            except StopIteration:
                self._source, self._end = None, StopAsyncIteration()
            except Exception as error:  # noqa: BLE001 - raised where the async side's would be
                self._source, self._end = None, error
            # At once, for the next item may take for ever.
            self._tell()
            self._slow = time.monotonic() > slow
            if self._slow:
                return

    def _pull_all(self) -> None:
        self._pulled.extend(self._source or ())
        self._source, self._end = None, StopAsyncIteration()
        self._tell()

    def _tell(self) -> None:
        """Let the loop collect, once for all that it has not collected yet."""
        if not self._told:
            self._told = True
            self._portal.soon(self._collect)

    def _collect(self) -> None:
        """Take over what was pulled and yielded since the last time; on the loop."""
        self._told = False
        end = self._end  # first: all items are there once it is set
        items = [self._pulled.popleft() for _ in range(len(self._pulled))]
        # In one step, or each worker would wait for its item in a queue.
        self._feed.put(items, end)
        if yielded := self._yielded - self._released:
            self._released += yielded
            self._stream.release(yielded)
