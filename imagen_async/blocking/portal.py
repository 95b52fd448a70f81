"""One thread with one loop and a portal of anyio's, which blocking code drives.

The thread is ours: the one of ``start_blocking_portal`` is ended by its starter alone, who waits
for that without end, so that a Ctrl-C as it starts, a collection on it or an exit would hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import warnings
from collections import deque
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio
from anyio import from_thread
from anyio.lowlevel import EventLoopToken, current_token

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
    """A coroutine on the loop, and its outcome for other threads.

    It is made before it is started, so that whoever waits for it has it even if a Ctrl-C comes
    while anyio takes it over, or waits for it.

    Args:
        function: Makes the coroutine.
    """

    __slots__ = ("_error", "_function", "_value", "done", "refused", "task")

    def __init__(self, function: Callable[[], Awaitable[T]]) -> None:
        self._function = function
        self.task: asyncio.Task[Any] | None = None
        self._value: T
        self._error: BaseException | None = None
        self.refused: bool = False
        self.done: bool = False

    async def run(self, ended: deque[asyncio.Task[Any] | None]) -> None:
        """Be it, and leave its task to the ended ones; on the loop."""
        # Before the look at ``refused``, which others set before they look for the task.
        self.task = asyncio.current_task()
        try:
            if not self.refused:
                self._value = await self._function()
        except asyncio.CancelledError:
            self._error = ConfigurationError(_CLOSED)
        except BaseException as error:  # noqa: BLE001 - the waiting thread raises it
            self._error = error
        self.done = True
        ended.append(self.task)
        # An error's traceback holds this frame: what holds the error must not stay in it.
        del self

    def cancel(self) -> None:
        """Cancel it if it has begun; on the loop."""
        if self.task is not None:
            self.task.cancel()

    async def wait(self) -> None:
        """Wait for its end if it has begun; on the loop."""
        if self.task is not None:
            await asyncio.wait([self.task])

    def outcome(self) -> T:
        """Return what the coroutine returned, or raise what it raised; after its end."""
        error, self._error = self._error, None
        if error is None:
            return self._value
        try:
            raise error
        finally:
            del error  # as in run


class Portal:
    """One thread with an event loop, started at the first call.

    The thread refers to it: its owner has to ``stop`` it when it is collected.

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
        self._opened = threading.Event()
        self._portal: from_thread.BlockingPortal
        self._token: EventLoopToken | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: anyio.Event
        self._grace: float | None = None
        self._jobs: set[Job[Any]] = set()
        # Tasks are to be freed by the loop's thread: the callbacks of weak references to them, as
        # asyncio and anyio have, swallow a Ctrl-C that meets them in the caller's.
        self._ended: deque[asyncio.Task[Any] | None] = deque(maxlen=32)
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
            self._admit(job)
            return self._cross(job)
        except BaseException:
            self._cancel(job)
            raise

    def enter(self, job: Job[None], entered: threading.Event) -> None:
        """Start a job and wait for its word or its error, as ``call`` does for its end."""

        async def run() -> None:
            await job.run(self._ended)
            entered.set()

        try:
            self._admit(job)
            self._portal.start_task_soon(run)
            entered.wait()
            if job.done:
                job.outcome()
        except BaseException:
            self._cancel(job)
            raise

    def leave(self, job: Job[None], tell: Callable[[], object]) -> None:
        """Tell a job on the loop that it may end, unless it has, and wait, as ``call`` does."""
        try:
            if not job.done:
                self.soon(tell)
                self._run(job.wait)
            job.outcome()
        except BaseException:
            self._cancel(job)
            raise
        self._jobs.discard(job)

    def soon(self, function: Callable[[], object]) -> None:
        """Run a plain function on the loop, without waiting; here and now if this is the loop."""
        if os.getpid() != self._pid:
            raise ForkedClientError(_FORKED)
        if self._loop is None or self.is_here:
            function()
        else:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and what this was for
                # Not by anyio, whose every call waits for the loop, which may be busy.
                self._loop.call_soon_threadsafe(function)

    def read(self, function: Callable[[], T]) -> T:
        """Return a plain function's result, from between two steps of the loop if it runs."""
        ends = self._grace is not None or os.getpid() != self._pid
        if self.is_here or self._loop is None or ends:
            return function()

        async def on_the_loop() -> T:
            return function()

        return self.call(on_the_loop)

    def close(self, grace: float) -> None:
        """Close the async side and end the thread, but not from that thread itself."""
        if self.is_here:
            raise ConfigurationError(_OWN_LOOP)
        self.stop(grace)

    def stop(self, grace: float = 0.0) -> None:
        """Close the async side and end the thread; harmless anywhere, and when done twice.

        Args:
            grace: Seconds to wait for calls in flight; there is no waiting for abandoned ones.
        """
        if os.getpid() != self._pid:
            return
        if any(job.refused and job.task and not job.done for job in tuple(self._jobs)):
            grace = 0.0
        if self._grace is None:
            self._grace = grace
        if self._loop is not None:
            self.soon(self._ending.set)
        # The thread is a daemon: if something in it hangs, leaving it is better than waiting.
        if self._thread is not None and not self.is_here:
            self._thread.join(grace + EXIT_WITHIN)

    def _admit(self, job: Job[Any]) -> None:
        """Make sure that there is a loop and that it takes a job before it ends."""
        if os.getpid() != self._pid:
            raise ForkedClientError(_FORKED)
        if self.is_here:
            raise ConfigurationError(_OWN_LOOP)
        if not self._warned and _in_a_loop():
            self._warned = True
            warnings.warn(_BLOCKS, stacklevel=4)
        # Before the look at whether it is closed: the loop does not end meanwhile.
        self._jobs.add(job)
        if self._grace is not None:
            raise ConfigurationError(_CLOSED)
        if self._token is None:
            self._open()

    def _cross(self, job: Job[T]) -> T:
        """Run an admitted job and wait for its outcome."""
        if _in_a_worker():
            # One of anyio's threads: ``run`` would put the job in its scope, on another loop.
            self._portal.call(job.run, self._ended)
        else:
            # The portal's call is this with one more wait, for the start, and costs twice as much.
            from_thread.run(job.run, self._ended, token=self._token)
        self._jobs.discard(job)
        return job.outcome()

    def _run(self, function: Callable[[], Awaitable[None]]) -> None:
        """Do what ``call`` does, for a coroutine that nobody minds if Ctrl-C leaves it running."""
        job = Job(function)
        try:
            self._admit(job)
            self._cross(job)
        finally:
            job.refused = True

    def _cancel(self, job: Job[Any]) -> None:
        """Cancel a job and wait for its cleanup; one that has not begun never will."""
        job.refused = True
        if job.task and not job.done:  # in the set until it has ended: Ctrl-C may come again
            with contextlib.suppress(ConfigurationError):  # one that closes waits for it elsewhere
                self.soon(job.cancel)
                self._run(job.wait)
        self._jobs.discard(job)

    def _open(self) -> None:
        with self._lock:
            if self._thread is None:
                loop = new_loop()
                thread = threading.Thread(
                    target=self._work, args=(loop,), name="imagen-async", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError:
                    loop.close()
                    raise ConfigurationError(_ENDING) from None
            self._opened.wait()
        if self._token is None:
            raise ConfigurationError(_ENDING)

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        with asyncio.Runner(loop_factory=lambda: loop):
            # A Ctrl-C may come before a thread is known; the next call then starts another.
            if not self._claim.acquire(blocking=False):
                return
            self._thread = threading.current_thread()
            main = loop.create_task(self._until_closed())
            try:
                while not main.done():
                    # Code on the loop that exits ends its own task, as an error does, no others.
                    with contextlib.suppress(SystemExit, KeyboardInterrupt):
                        loop.run_until_complete(main)
            finally:
                self._opened.set()

    async def _until_closed(self) -> None:
        async with from_thread.BlockingPortal() as self._portal:
            self._ending = anyio.Event()
            self._loop = asyncio.get_running_loop()
            self._token = current_token()
            self._opened.set()
            # After the loop is there: ``stop`` looks for it after it sets this.
            if self._grace is None:
                await self._ending.wait()
            assert self._grace is not None
            # Not without end: a Ctrl-C may have kept one from crossing, and from being refused.
            for _ in range(1000):
                if any(not job.task and not job.refused for job in tuple(self._jobs)):
                    await anyio.sleep(0.001)
            await self._aclose(self._grace)
            for job in tuple(self._jobs):
                job.cancel()
            await self._portal.stop(cancel_remaining=True)


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _in_a_worker() -> bool:
    try:
        from_thread.check_cancelled()
    except RuntimeError:
        return False
    except asyncio.CancelledError:
        pass
    return True


def new_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop, uvloop's if that is installed."""
    try:
        uvloop: Any = import_module("uvloop")
    except (ImportError, RuntimeError):  # the latter while the interpreter ends
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
