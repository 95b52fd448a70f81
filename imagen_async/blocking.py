"""How blocking code drives the async core: one thread with one loop, and streams across it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import warnings
import weakref
from collections import deque
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import anyio
from anyio.from_thread import start_blocking_portal

from imagen_async.errors import ConfigurationError, ForkedClientError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
    from concurrent.futures import Future
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from types import TracebackType

    from anyio.from_thread import BlockingPortal

    from imagen_async.session.many import Outcome

T = TypeVar("T")
S = TypeVar("S", bound="Slices")

EXIT_WITHIN = 1.5
"""Seconds that closing at the interpreter's exit may take."""
SLOW = 0.01
"""Seconds; a source that takes longer for an item does not keep finished outcomes waiting."""


class Portal:
    """One thread with an event loop, started at the first call.

    It stops when its owner is collected or the interpreter exits, whichever comes first.

    Args:
        owner: Whose life it shares.
        aclose: Closes the async side; its argument is the seconds to wait for calls in flight.
    """

    def __init__(self, owner: object, aclose: Callable[[float], Awaitable[None]]) -> None:
        self._state = _State(aclose)
        self._finalizer = weakref.finalize(owner, self._state.stop, 0.0)

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run a coroutine function on the loop and wait for it.

        Ctrl-C cancels it and waits for its cleanup; a second Ctrl-C leaves at once.
        """
        portal = self._state.started()
        running: list[asyncio.Task[object]] = []

        async def run() -> T:
            running.extend(filter(None, (asyncio.current_task(),)))
            return await function()

        future: Future[T] = portal.start_task_soon(run)
        try:
            return future.result()
        except BaseException:
            if not future.done() and running:
                # Not future.cancel(): it would not tell when the call has cleaned up.
                portal.start_task_soon(running[0].cancel)
                with contextlib.suppress(Exception, CancelledError):
                    future.result()
            raise

    def context(self, manager: AbstractAsyncContextManager[T]) -> AbstractContextManager[T]:
        """Return a blocking twin of an async context manager."""
        return self._state.started().wrap_async_context_manager(manager)

    def soon(self, function: Callable[[], object]) -> None:
        """Run a plain function on the loop, without waiting for its result."""
        self._state.started().start_task_soon(function)

    def close(self, grace: float) -> None:
        """Close the async side and end the thread; harmless when done twice."""
        self._state.stop(grace)


class _State:
    """What a Portal owns; it must not refer to the owner, or that would never be collected."""

    def __init__(self, aclose: Callable[[float], Awaitable[None]]) -> None:
        self._aclose = aclose
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._stack: contextlib.ExitStack | None = None
        self._portal: BlockingPortal | None = None
        self._thread: int | None = None
        self._warned = False

    def started(self) -> BlockingPortal:
        """Return the portal; start its thread if there is none."""
        if os.getpid() != self._pid:
            raise ForkedClientError("This client was made before a fork, in another process; make a new one here.")
        if threading.get_ident() == self._thread:
            raise ConfigurationError(
                "Imagen was called on its own event loop, where it would wait for itself; "
                "use AsyncImagen there."
            )
        self._warn_of_loop()
        with self._lock:
            if self._portal is None:
                stack = contextlib.ExitStack()
                options = {"loop_factory": _loop_factory()}
                self._portal = stack.enter_context(
                    start_blocking_portal("asyncio", options, name="imagen-async")
                )
                self._stack = stack
                self._thread = self._portal.call(threading.get_ident)
            return self._portal

    def stop(self, grace: float) -> None:
        """Close the async side and end the thread, unless they belong to another process."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            portal, self._portal = self._portal, None
            stack, self._stack = self._stack, None
            self._thread = None
        if portal is None or stack is None:
            return
        closing = portal.start_task_soon(self._aclose, grace)
        with contextlib.suppress(Exception):
            closing.result(grace + EXIT_WITHIN)
        # The thread is a daemon: if something in it hangs, leaving it is better than waiting.
        ending = threading.Thread(target=stack.close, daemon=True)
        ending.start()
        ending.join(EXIT_WITHIN)

    def _warn_of_loop(self) -> None:
        if self._warned:
            return
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            self._warned = True
            warnings.warn(
                "Imagen blocks the event loop that runs in this thread; "
                "`await` the methods of AsyncImagen instead.",
                stacklevel=5,
            )


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


class Slices(Protocol):
    """An async context manager whose outcomes can be taken several at a time."""

    async def __aenter__(self: S) -> S:
        """Begin."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End."""

    async def take(self, most: int) -> list[Outcome]:
        """Return the outcomes that are ready, at least one, at most ``most``; [] at the end."""


class Feed(Generic[T]):
    """An async iterator fed from another thread, and the only place where both sides meet."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._ended = False
        self._fed = anyio.Event()

    def put(self, items: list[T], *, ended: bool) -> None:
        """Add items; called on the loop."""
        self._items.extend(items)
        self._ended = self._ended or ended
        self._fed.set()
        self._fed = anyio.Event()

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        while not self._items:
            if self._ended:
                raise StopAsyncIteration
            await self._fed.wait()
        return self._items.popleft()


class BlockingStream(Generic[T, S]):
    """A context manager over an iterator of outcomes, driven from blocking code.

    The source is advanced in the reader's thread, inside ``__next__``: it may block without
    holding up what is in flight. Outcomes cross the threads several at a time. Never more than
    ``bound`` items are between being pulled and being yielded.

    Args:
        portal: Where the async side runs.
        source: Items; None if the async side has a source of its own.
        feed: What the async side reads them from.
        stream: The async side.
        bound: Items pulled and not yet yielded, at most.
    """

    def __init__(
        self,
        portal: Portal,
        source: Iterator[T] | None,
        feed: Feed[T],
        stream: S,
        bound: int,
    ) -> None:
        self._portal = portal
        self._source = source
        self._feed = feed
        self.stream = stream
        self._bound = bound
        self._pulled = 0
        self._yielded = 0
        self._ready: deque[Outcome] = deque()
        self._context: AbstractContextManager[S] | None = None

    def __enter__(self) -> BlockingStream[T, S]:
        self._context = self._portal.context(self.stream)
        self._context.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._context is not None
        if self._source is not None:
            self._source = None
            self._portal.soon(lambda: self._feed.put([], ended=True))
        self._context.__exit__(kind, error, trace)

    def __iter__(self) -> Iterator[Outcome]:
        return self

    def __next__(self) -> Outcome:
        if self._context is None:
            raise ConfigurationError("Use it in a with block: `with ... as outcomes:`.")
        room = self._bound - (self._pulled - self._yielded)
        if self._source is not None and (not self._ready or 2 * room >= self._bound):
            self._pull(self._source, room)
        if not self._ready:
            self._ready.extend(self._portal.call(lambda: self.stream.take(self._bound)))
        if not self._ready:
            raise StopIteration
        self._yielded += 1
        return self._ready.popleft()

    def _pull(self, source: Iterator[T], room: int) -> None:
        items: list[T] = []
        slow = time.monotonic() + SLOW
        ended = False
        try:
            while len(items) < room and (not items or time.monotonic() < slow):
                try:
                    items.append(next(source))
                except StopIteration:
                    ended = True
                    self._source = None
                    break
        finally:
            self._pulled += len(items)
            if items or ended:
                self._portal.soon(lambda: self._feed.put(items, ended=ended))
