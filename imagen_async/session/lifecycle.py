"""What a client is bound to: one process, one loop at a time, and an end that loses no call.

The transport belongs to the running loop. A loop that has ended leaves its transport behind, and
the next call makes another; a loop that still runs is never shared.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from imagen_async.errors import ConfigurationError, ForkedClientError
from imagen_async.session.loop import running_task

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from imagen_async.errors import ImagenError
    from imagen_async.session.transport import Transport

T = TypeVar("T")

GRACE = 30.0
"""Seconds that closing waits for calls in flight: they may be paid for."""
CLEANUP = 5.0
"""Seconds that closing waits for the calls it cancelled: they may be saving an image."""


class Lifecycle:
    """Gives calls the transport of their loop, follows them while they run, and closes it.

    Args:
        connect: Makes what belongs to the running loop, and returns its transport.
    """

    def __init__(self, connect: Callable[[], Transport]) -> None:
        self._connect = connect
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._transport: Transport | None = None
        self._keeper: AsyncGenerator[None, None] | None = None
        self._closed = False
        # Each task in flight, with the cancellations that it had been asked for before its work.
        self._active: dict[asyncio.Task[Any], int] = {}
        self._cut_off: set[asyncio.Task[Any]] = set()
        self._one_left: anyio.Event | None = None

    @property
    def forked(self) -> bool:
        """Whether this is a copy in a child process."""
        return os.getpid() != self._pid

    def begin(self) -> tuple[Transport, asyncio.Task[Any]]:
        """Count the running task as in flight; return its loop's transport, and the task.

        ``end`` must follow.

        Raises:
            ForkedClientError: If the client was made before a fork.
            ConfigurationError: If it is closed, or in use on another running loop.
        """
        if os.getpid() != self._pid:
            raise ForkedClientError(
                "This client was made before a fork, in another process; make a new one here."
            )
        if self._closed:
            raise ConfigurationError("This client is closed; make a new one.")
        task, loop, transport = running_task(), asyncio.get_running_loop(), self._transport
        if loop is not self._loop or transport is None:
            transport = self._bind(loop)
        self._active[task] = task.cancelling()
        return transport, task

    def end(self, task: asyncio.Task[Any]) -> None:
        """Count a task as in flight no more."""
        self._active.pop(task, None)
        self._cut_off.discard(task)
        if self._one_left is not None:
            self._one_left.set()
            self._one_left = None

    def was_cut_off(self, task: asyncio.Task[Any]) -> bool:
        """Return whether closing cancelled a task, and nobody else did; that is then undone.

        Whoever else cancelled it waits for it to end by that cancellation.
        """
        return task in self._cut_off and task.uncancel() <= self._active.get(task, 0)

    async def follow(
        self,
        work: Callable[[Transport], Coroutine[Any, Any, T]],
        closed: Callable[[], ImagenError],
    ) -> T:
        """Do work that closing waits for, and then cancels: it then raises ``closed``.

        Raises:
            ConfigurationError: As ``begin`` does.
        """
        transport, task = self.begin()
        try:
            return await work(transport)
        except asyncio.CancelledError:
            if not self.was_cut_off(task):
                raise
        finally:
            self.end(task)
        raise closed()

    async def aclose(self, grace: float) -> None:
        """Refuse new calls, wait for those in flight, then cancel them and close all sockets.

        Args:
            grace: Seconds to wait for calls in flight.

        Raises:
            ConfigurationError: If the client is in use on another running loop.
        """
        if self.forked:
            return  # nothing here is this process's to close
        running_task()
        self._check_loop()
        self._closed = True
        if self._loop is not asyncio.get_running_loop():
            self._forget()
            return
        try:
            with anyio.move_on_after(grace):
                await self._idle()
        finally:
            with anyio.CancelScope(shield=True):
                await self._cut_and_close()

    async def _idle(self) -> None:
        while self._active:
            self._one_left = self._one_left or anyio.Event()
            await self._one_left.wait()

    async def _cut_and_close(self) -> None:
        for task in self._active.keys() - self._cut_off:
            self._cut_off.add(task)
            task.cancel()
        with anyio.move_on_after(CLEANUP):
            await self._idle()
        keeper, self._keeper, self._transport = self._keeper, None, None
        if keeper is not None:
            await keeper.aclose()

    def _bind(self, loop: asyncio.AbstractEventLoop) -> Transport:
        """Make the transport of a loop, if the last loop has ended."""
        self._check_loop()
        self._forget()
        transport = self._connect()
        self._loop = loop
        self._keeper = _keep(transport)
        with contextlib.suppress(StopIteration):
            # Its first step, by hand: from here the loop closes it when it shuts down.
            self._keeper.asend(None).send(None)
        self._transport = transport
        return transport

    def _check_loop(self) -> None:
        theirs = self._loop
        if theirs is not None and theirs is not asyncio.get_running_loop() and theirs.is_running():
            raise ConfigurationError(
                "This client is in use on another running event loop; "
                "make one client for each loop, or use Imagen from threads."
            )

    def _forget(self) -> None:
        """Let go of the sessions of a loop that runs no more."""
        if self._transport is not None:
            self._transport.drop()
        self._transport = self._keeper = self._loop = None
        self._active.clear()


async def _keep(transport: Transport) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await transport.aclose()
