"""A bounded stream of outcomes: many items in, each settled once, in completion or input order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio
import attrs

from imagen_async.session.loop import running_task
from imagen_async.wire.request import request_fields
from imagen_async.wire.short_repr import short_repr

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Mapping
    from typing import Self

    from anyio.abc import TaskGroup

    from imagen_async.errors import ImagenError
    from imagen_async.wire.generation import Generation
    from imagen_async.wire.request import GenerationRequest

_Item = TypeVar("_Item")

AHEAD = 2
"""Items pulled beyond the concurrency, so that a free slot never waits for the source."""


@attrs.frozen
class Outcome:
    """How one item settled: with a generation or with an error.

    Args:
        index: The item's place in the input, from 0.
        request: What was asked; None if the item was no valid request.
        generation: What came.
        error: Why nothing came.
        id: The user's own name for the item, in a batch.
        columns: The user's own columns of its row, in a batch.
    """

    index: int
    request: GenerationRequest | None
    generation: Generation | None = None
    error: ImagenError | None = None
    id: str | None = None
    columns: Mapping[str, Any] = attrs.field(factory=dict, hash=False)
    __repr__ = short_repr

    @property
    def row(self) -> dict[str, Any]:
        """The item as a row that can be an input again: id, what was asked, own columns."""
        named = {} if self.id is None else {"id": self.id}
        return {**named, **request_fields(self.request), **self.columns}

    @property
    def ok(self) -> bool:
        """Whether the item is done."""
        return self.generation is not None


class Stream(Generic[_Item]):
    """Work on items concurrently and yield their outcomes; an async context manager.

    Never more than ``concurrency + 2`` items are between being pulled and being yielded, so a
    slow reader slows the source. Leaving the block cancels what is in flight. If it is cancelled
    from outside, reading raises that once what had settled is read: it never just ends.

    Args:
        source: Items, pulled lazily on the event loop.
        work: Settles one item; None if there is nothing to yield for it.
        concurrency: Items worked on at once, and 2 more that wait for a slot.
        ordered: Whether outcomes come in input order, within the same bound.
        dropped: Told of each outcome that was settled and never yielded.
    """

    def __init__(
        self,
        source: Iterable[_Item] | AsyncIterable[_Item],
        work: Callable[[int, _Item], Awaitable[Outcome | None]],
        *,
        concurrency: int,
        ordered: bool = False,
        dropped: Callable[[Outcome], None] | None = None,
    ) -> None:
        self._plain = None if isinstance(source, AsyncIterable) else _each(source)
        self._source = _each_later(source) if isinstance(source, AsyncIterable) else None
        self._work = work
        self._bound = concurrency + AHEAD
        self._ordered = ordered
        self._dropped = dropped
        self._ready: deque[Outcome] = deque()
        self._early: dict[int, Outcome | None] = {}
        self._next_pulled = 0
        self._next_yielded = 0
        self._unread = 0
        self._workers = 0
        self._exhausted = False
        self._failure: Exception | None = None
        self._cut: tuple[object, ...] | None = None
        self._group: TaskGroup | None = None

    async def __aenter__(self) -> Self:
        running_task()
        self._tickets = anyio.Semaphore(self._bound, fast_acquire=True)
        self._pulling = anyio.Lock(fast_acquire=True)
        self._pull: anyio.CancelScope | None = None
        self._changed: anyio.Event | None = None
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._hire()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._group is not None
        self._exhausted = True
        self._group.cancel_scope.cancel()
        try:
            # Not told of the block's error, or it would come back inside an ExceptionGroup.
            await self._group.__aexit__(None, None, None)
        finally:
            self._group = None
            await self._close_source()
            for outcome in (*self._ready, *self._early.values()):
                if outcome is not None and self._dropped is not None:
                    self._dropped(outcome)
            self._ready.clear()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Outcome:
        if not self._ready and not await self.wait():
            raise StopAsyncIteration
        self.release(1)
        return self._ready.popleft()

    async def take(self, most: int) -> list[Outcome]:
        """Return the outcomes that are ready, at least one, at most ``most``; [] at the end."""
        taken = self.pop(most) if await self.wait() else []
        self.release(len(taken))
        return taken

    async def wait(self) -> bool:
        """Wait until an outcome is ready; False at the end.

        Raises:
            Exception: What the source or the work raised, after all outcomes.
            CancelledError: If work was cancelled, after all outcomes: some item has none.
        """
        while not self._ready and self._workers:
            self._changed = self._changed or anyio.Event()
            await self._changed.wait()
        if self._ready:
            return True
        if self._group is None:
            raise RuntimeError("Read the stream in its block: `async with ... as outcomes:`.")
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if self._cut is not None:
            # The reader need not be cancelled itself: it may be shielded, or not yet reached. Our
            # own error says what theirs said, for by that a cancel scope knows it for its own.
            raise asyncio.CancelledError(*self._cut)
        return False

    def pop(self, most: int) -> list[Outcome]:
        """Return outcomes that are ready; they count as not yielded until their ``release``."""
        return [self._ready.popleft() for _ in range(min(most, len(self._ready)))]

    def release(self, count: int) -> None:
        """Count outcomes as yielded, so that as many more items may be pulled."""
        self._unread -= count
        for _ in range(count):
            self._tickets.release()

    @property
    def unread(self) -> int:
        """Items that were pulled and not yet yielded."""
        return self._unread

    def stop(self) -> None:
        """Pull no more items; what was pulled goes on and is yielded."""
        self._exhausted = True
        if self._group is not None and self._pull is not None:
            self._pull.cancel()

    def _hire(self) -> None:
        assert self._group is not None
        self._workers += 1
        self._group.start_soon(self._worker)

    async def _worker(self) -> None:
        try:
            while (pulled := await self._pull_one()) is not None:
                # One more worker for each item until the bound: three items need no thousand.
                if self._workers < self._bound:
                    self._hire()
                index, item = pulled
                self._settle(index, await self._work(index, item))
        except Exception as error:  # noqa: BLE001 - raised to the reader
            self._failure = self._failure or error
            self.stop()
        except asyncio.CancelledError as error:
            # Not raised on: unless all are cancelled anyway, the group would cancel the others now,
            # and theirs may be paid for.
            self._cut = error.args
            self.stop()
        finally:
            self._workers -= 1
            self._tell()

    async def _pull_one(self) -> tuple[int, _Item] | None:
        """Take the next item, once there is room for it; None at the end."""
        if self._tickets.value:
            self._tickets.acquire_nowait()
        else:
            await self._tickets.acquire()
        if self._plain is not None:
            if not self._exhausted:
                for item in self._plain:
                    return self._counted(item)
        elif self._source is not None:
            async with self._pulling:
                if not self._exhausted:
                    with anyio.CancelScope() as self._pull:
                        async for item in self._source:
                            return self._counted(item)
        self._exhausted = True
        self._tickets.release()
        return None

    def _counted(self, item: _Item) -> tuple[int, _Item]:
        index = self._next_pulled
        self._next_pulled += 1
        self._unread += 1
        return index, item

    async def _close_source(self) -> None:
        if self._plain is not None:
            self._plain.close()
        if self._source is not None:
            with anyio.CancelScope(shield=True):
                await self._source.aclose()

    def _settle(self, index: int, outcome: Outcome | None) -> None:
        if not self._ordered:
            if outcome is None:
                self.release(1)
                return
            self._ready.append(outcome)
        else:
            self._early[index] = outcome
            while self._next_yielded in self._early:
                due = self._early.pop(self._next_yielded)
                self._next_yielded += 1
                if due is None:
                    self.release(1)
                else:
                    self._ready.append(due)
        self._tell()

    def _tell(self) -> None:
        """Wake who waits to read."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None


# Generators of our own: they begin with the first item, and end without ending the user's.


def _each(source: Iterable[_Item]) -> Generator[_Item, None, None]:
    for item in source:  # noqa: UP028 - closing a `yield from` would close the source
        yield item


async def _each_later(source: AsyncIterable[_Item]) -> AsyncGenerator[_Item, None]:
    async for item in source:
        yield item
