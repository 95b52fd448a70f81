"""One thread with one loop, which blocking code drives.

anyio's blocking portal does much of this. It crosses the threads twice as often for a call, may
lose a call that Ctrl-C meets as it starts, and cannot be ended by a finalizer on its own thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import warnings
import weakref
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar

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

    A bare lock tells the end: a concurrent.futures.Future has a condition and more locks for it.

    Args:
        function: Makes the coroutine.
    """

    __slots__ = ("_error", "_function", "_running", "_task", "_value", "done")

    def __init__(self, function: Callable[[], Awaitable[T]]) -> None:
        self._function = function
        self._task: asyncio.Task[None] | None = None
        self._value: T
        self._error: BaseException | None = None
        self.done: bool = False
        self._running = threading.Lock()
        self._running.acquire()

    def start(self) -> None:
        """Begin; on the loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def cancel(self) -> None:
        """Cancel it; on the loop."""
        if self._task is not None:
            self._task.cancel()

    def wait(self) -> None:
        """Wait for its end; in other threads."""
        with self._running:
            pass

    def result(self) -> T:
        """Wait for its end and return what the coroutine returned, or raise what it raised."""
        self.wait()
        error, self._error = self._error, None
        if error is None:
            return self._value
        try:
            raise error
        finally:
            del self, error  # as in _run

    async def _run(self) -> None:
        try:
            self._value = await self._function()
        except asyncio.CancelledError:
            self._error = ConfigurationError(_CLOSED)
        except BaseException as error:  # noqa: BLE001 - the waiting thread raises it
            self._error = error
        self.done, running = True, self._running
        # An error's traceback holds this frame: what holds the error must not stay in it.
        del self
        running.release()


class Portal:
    """One thread with an event loop, started at the first call.

    It ends when it is closed or collected or the interpreter exits, whichever comes first.

    Args:
        aclose: Closes the async side; its argument is the seconds to wait for calls in flight.
    """

    def __init__(self, aclose: Callable[[float], Awaitable[None]]) -> None:
        self._worker = _Worker(aclose)
        self._finalizer = weakref.finalize(self, self._worker.stop, 0.0)

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run a coroutine function on the loop and wait for it, as ``wait`` does."""
        return self.wait(self._worker.start(Job(function)))

    def wait(self, job: Job[T]) -> T:
        """Wait for a job.

        Ctrl-C cancels it and waits for its cleanup; a second Ctrl-C leaves at once.
        """
        try:
            return job.result()
        except BaseException:
            if not job.done:
                self._worker.cancel(job)
            raise
        finally:
            del job  # as in its _run

    def start(self, function: Callable[[], Awaitable[T]]) -> Job[T]:
        """Start a coroutine function on the loop."""
        return self._worker.start(Job(function))

    def cancel(self, job: Job[Any]) -> None:
        """Cancel a job and wait for its cleanup."""
        self._worker.cancel(job)

    def soon(self, function: Callable[[], object]) -> None:
        """Run a plain function on the loop, without waiting; here and now if this is the loop."""
        if self._worker.is_here:
            function()
        else:
            self._worker.soon(function)

    def read(self, function: Callable[[], T]) -> T:
        """Return a plain function's result, from between two steps of the loop if it runs."""
        if self._worker.is_here or not self._worker.runs:
            return function()

        async def on_the_loop() -> T:
            return function()

        return self.call(on_the_loop)

    def close(self, grace: float) -> None:
        """Close the async side and end the thread; harmless when done twice.

        Args:
            grace: Seconds to wait for calls in flight.

        Raises:
            ConfigurationError: If it is called on the thread itself.
        """
        if self._worker.is_here:
            raise ConfigurationError(_OWN_LOOP)
        self._worker.stop(grace)


class _Worker:
    """What a Portal owns; it does not refer to the Portal, or that would never be collected."""

    def __init__(self, aclose: Callable[[float], Awaitable[None]]) -> None:
        self._aclose = aclose
        self._pid = os.getpid()
        # Reentrant: a signal handler or a finalizer may come in at any line.
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Future[float] | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._abandoned: list[Job[Any]] = []
        self._warned = False

    @property
    def is_here(self) -> bool:
        """Whether this is its thread."""
        return threading.current_thread() is self._thread

    @property
    def runs(self) -> bool:
        """Whether there is a thread that would run a function."""
        return self._loop is not None and not self._closed and os.getpid() == self._pid

    def start(self, job: Job[T]) -> Job[T]:
        """Start a job on the loop; start the thread if there is none."""
        if os.getpid() != self._pid:
            raise ForkedClientError(_FORKED)
        if self.is_here:
            raise ConfigurationError(_OWN_LOOP)
        self._warn_of_loop()
        self.soon(job.start)
        return job

    def soon(self, function: Callable[[], object]) -> None:
        """Run a plain function on the loop, after all that was given before."""
        if os.getpid() != self._pid:
            raise ForkedClientError(_FORKED)
        # Under the lock, so that nothing is given to a loop that was told to end.
        with self._lock:
            if self._closed:
                raise ConfigurationError(_CLOSED)
            if self._loop is None:
                self._loop = self._begin()
            self._loop.call_soon_threadsafe(function)

    def cancel(self, job: Job[Any]) -> None:
        """Cancel a job and wait until it has cleaned up; remember it if that is interrupted."""
        with contextlib.suppress(ConfigurationError):
            self.soon(job.cancel)
        try:
            job.wait()
        except BaseException:
            self._abandoned.append(job)
            raise

    def stop(self, grace: float) -> None:
        """Close the async side and end the thread, unless they are another process's.

        Args:
            grace: Seconds to wait for calls in flight; there is no waiting for abandoned ones.
        """
        if os.getpid() != self._pid:
            return
        if self._abandoned:
            grace = 0.0
        with self._lock:
            first, self._closed = not self._closed, True
            if first and self._loop is not None and self._ending is not None:
                self._loop.call_soon_threadsafe(self._ending.set_result, grace)
        # The thread is a daemon: if something in it hangs, leaving it is better than waiting.
        if self._thread is not None and not self.is_here:
            self._thread.join(grace + EXIT_WITHIN)

    def _begin(self) -> asyncio.AbstractEventLoop:
        loop = _new_loop()
        self._ending = loop.create_future()
        thread = threading.Thread(target=self._run, args=(loop,), name="imagen-async", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            loop.close()
            raise ConfigurationError(_ENDING) from None
        self._thread = thread
        return loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(self._until_closed())

    async def _until_closed(self) -> None:
        assert self._ending is not None
        await self._aclose(await self._ending)

    def _warn_of_loop(self) -> None:
        if self._warned:
            return
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        self._warned = True
        warnings.warn(_BLOCKS, stacklevel=5)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        uvloop: Any = import_module("uvloop")
    except (ImportError, RuntimeError):  # the latter while the interpreter ends
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
