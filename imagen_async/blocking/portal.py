"""One thread with one loop and anyio's portal to it, which blocking code drives.

The thread is ours: the one of ``start_blocking_portal`` is ended by its starter alone, who waits
for that without end, so that a Ctrl-C as it starts, a collection on it or an exit would hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import warnings
from concurrent.futures import Future
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from imagen_async.errors import ConfigurationError, ForkedClientError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

EXIT_WITHIN = 1.5
"""Seconds that closing at the interpreter's exit may take."""
_CLOSED = "This client is closed; make a new one."
_FORKED = "This client was made before a fork, in another process; make a new one here."
_ENDING = "No thread can be started any more: call Imagen before the interpreter ends."
_OWN_LOOP = (
    "Imagen was called on its own event loop, where it would wait for itself; use AsyncImagen "
    "there, or call it from another thread."
)
_BLOCKS = (
    "Imagen blocks the event loop that runs in this thread; "
    "`await` the methods of AsyncImagen instead."
)


class Job(Generic[T]):
    """A coroutine on the loop, and its result for other threads.

    A Ctrl-C while the portal takes a call over loses the portal's future, and cancelling that
    would not wait for the cleanup. A job is made before it is started, so its maker has it always.

    Args:
        function: Makes the coroutine.
    """

    __slots__ = ("_error", "_function", "_scope", "_unwanted", "_value", "ended")

    def __init__(self, function: Callable[[], Awaitable[T]]) -> None:
        self._function = function
        self._scope: anyio.CancelScope | None = None
        self._unwanted = False
        self._value: T
        self._error: BaseException | None = None
        self.ended = threading.Event()

    async def run(self) -> None:
        """Be it; on the loop."""
        with anyio.CancelScope() as self._scope:
            try:
                # The scope is set before this look, and looked at after ``refuse`` sets this.
                if not self._unwanted:
                    self._value = await self._function()
            except asyncio.CancelledError:
                self._error = ConfigurationError(_CLOSED)
            except BaseException as error:  # noqa: BLE001 - the waiting thread raises it
                self._error = error
        ended = self.ended
        # An error's traceback holds this frame: what holds the error must not stay in it.
        del self
        ended.set()

    def refuse(self) -> bool:
        """Never begin; False if it has begun, all the same, and not ended."""
        self._unwanted = True
        return self._scope is None or self.ended.is_set()

    def cancel(self) -> None:
        """Cancel it, once it has begun; on the loop."""
        if self._scope is not None:
            self._scope.cancel()

    def result(self) -> T:
        """Wait for its end and return what the coroutine returned, or raise what it raised."""
        self.ended.wait()
        error, self._error = self._error, None
        if error is None:
            return self._value
        try:
            raise error
        finally:
            del error  # as in run


class Portal:
    """One thread with an event loop, started at the first call.

    The thread refers to it, so its owner is to ``stop`` it when it is collected.

    Args:
        aclose: Closes the async side; its argument is the seconds to wait for calls in flight.
    """

    def __init__(self, aclose: Callable[[float], Awaitable[None]]) -> None:
        self._aclose = aclose
        self._pid = os.getpid()
        # Reentrant: a signal handler may come in at any line.
        self._lock = threading.RLock()
        self._claim = threading.Lock()
        self._thread: threading.Thread | None = None
        self._opened: Future[BlockingPortal] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: anyio.Event
        self._grace: float | None = None
        self._crossing: set[Job[Any]] = set()
        self._abandoned: set[Job[Any]] = set()
        self._warned = False

    @property
    def is_here(self) -> bool:
        """Whether this is its thread."""
        return threading.current_thread() is self._thread

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run a coroutine function on the loop and wait for it.

        Ctrl-C cancels it and waits for its cleanup; a second Ctrl-C leaves at once.
        """
        job = Job(function)
        try:
            self._start(job)
            return job.result()
        except BaseException:
            self._cancel(job)
            raise

    def enter(self, job: Job[None], entered: threading.Event) -> None:
        """Start a job and wait for its word, as ``call`` does."""
        try:
            self._start(job)
            entered.wait()
        except BaseException:
            self._cancel(job)
            raise

    def leave(self, job: Job[None], tell: Callable[[], object]) -> None:
        """Tell a job on the loop that it may end, unless it has, and wait, as ``call`` does."""
        if not job.ended.is_set():
            self._check()
        try:
            if not job.ended.is_set():
                self.soon(tell)
            job.result()
        except BaseException:
            self._cancel(job)
            raise

    def soon(self, function: Callable[[], object]) -> None:
        """Run a plain function on the loop, without waiting; here and now if no loop can run it."""
        if os.getpid() != self._pid:
            raise ForkedClientError(_FORKED)
        if self._loop is None or self._loop.is_closed() or self.is_here:
            function()
        else:
            # Not by anyio's portal, whose every call waits for the loop, which may be busy.
            self._loop.call_soon_threadsafe(function)

    def read(self, function: Callable[[], T]) -> T:
        """Return a plain function's result, from between two steps of the loop if it runs."""
        runs = self._loop is not None and self._grace is None and os.getpid() == self._pid
        if self.is_here or not runs:
            return function()

        async def on_the_loop() -> T:
            return function()

        return self.call(on_the_loop)

    def close(self, grace: float) -> None:
        """Close the async side and end the thread; harmless when done twice.

        Args:
            grace: Seconds to wait for calls in flight; there is no waiting for abandoned ones.

        Raises:
            ConfigurationError: If it is called on the thread itself.
        """
        if self.is_here:
            raise ConfigurationError(_OWN_LOOP)
        self.stop(grace)

    def stop(self, grace: float = 0.0) -> None:
        """Do what ``close`` does, but on the thread itself do not wait for its end."""
        if os.getpid() != self._pid:
            return
        if not all(job.refuse() for job in tuple(self._abandoned)):
            grace = 0.0
        if self._grace is None:
            self._grace = grace
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._ending.set)
        # The thread is a daemon: if something in it hangs, leaving it is better than waiting.
        if self._thread is not None and not self.is_here:
            self._thread.join(grace + EXIT_WITHIN)

    def _check(self) -> None:
        """Raise an error where waiting for the loop would take for ever."""
        if os.getpid() != self._pid:
            raise ForkedClientError(_FORKED)
        if self.is_here:
            raise ConfigurationError(_OWN_LOOP)

    def _start(self, job: Job[Any]) -> None:
        """Start a job on the loop; start the thread if there is none."""
        self._check()
        if not self._warned:
            with contextlib.suppress(RuntimeError):
                asyncio.get_running_loop()
                self._warned = True
                warnings.warn(_BLOCKS, stacklevel=4)
        try:
            # Before the look at whether it is closed: the loop does not end meanwhile.
            self._crossing.add(job)
            if self._grace is not None:
                raise ConfigurationError(_CLOSED)
            self._open().start_task_soon(job.run)
        finally:
            self._crossing.discard(job)

    def _cancel(self, job: Job[Any]) -> None:
        """Cancel a job and wait for its cleanup; one that has not begun never will."""
        # Remembered until then: a second Ctrl-C may come at any line.
        self._abandoned.add(job)
        if not job.refuse():
            self.soon(job.cancel)
            job.ended.wait()
        self._abandoned.discard(job)

    def _open(self) -> BlockingPortal:
        with self._lock:
            if self._thread is None:
                loop = _new_loop()
                thread = threading.Thread(
                    target=self._run, args=(loop,), name="imagen-async", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError:
                    loop.close()
                    raise ConfigurationError(_ENDING) from None
            return self._opened.result()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            # A Ctrl-C may come before a thread is known; the next call then starts another.
            if not self._claim.acquire(blocking=False):
                return
            self._thread = threading.current_thread()
            main = runner.get_loop().create_task(self._until_closed())
            while not main.done():
                # Code on the loop that exits ends its own task, as any error does, not the others.
                with contextlib.suppress(SystemExit, KeyboardInterrupt):
                    loop.run_until_complete(main)

    async def _until_closed(self) -> None:
        async with BlockingPortal() as portal:
            self._ending = anyio.Event()
            self._loop = asyncio.get_running_loop()
            self._opened.set_result(portal)
            # After the loop is there: ``stop`` looks for it after it sets this.
            if self._grace is None:
                await self._ending.wait()
            assert self._grace is not None
            # Not without end: a Ctrl-C may have kept a job from leaving the set.
            for _ in range(1000):
                if self._crossing:
                    await anyio.sleep(0.001)
            await self._aclose(self._grace)
            await portal.stop(cancel_remaining=True)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        uvloop: Any = import_module("uvloop")
    except (ImportError, RuntimeError):  # the latter while the interpreter ends
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
