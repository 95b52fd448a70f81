"""The waiting of one run's calls, which ends for all of them when the run has waited in vain."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio

from imagen_async.policy.patience import Patience

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imagen_async.errors import Verdict


class SharedPatience:
    """The patience of one run, with the calls that wait on it.

    Args:
        give_up_after: Seconds; None for the usual limits.

    Raises:
        ConfigurationError: If that is not a number above 0.
    """

    def __init__(self, give_up_after: float | None = None) -> None:
        self._patience = Patience(give_up_after)
        self._waiting: set[anyio.CancelScope] = set()
        self._resumed: anyio.Event | None = None

    @property
    def ended(self) -> str | None:
        """``unreachable`` or ``refused``, once the run is over."""
        return self._patience.ended

    @property
    def problem(self) -> str:
        """Why the run is over, as part of a sentence; empty while it is not."""
        return self._patience.problem

    def tell(self, verdict: Verdict) -> None:
        """Note how an attempt ended."""
        if self._patience.tell(verdict, asyncio.get_running_loop().time()):
            self._put_off()

    @property
    def paused(self) -> bool:
        """Whether no call of the run may be sent now."""
        return self._patience.paused

    def pause(self) -> None:
        """Let no call of the run be sent until ``resume``."""
        self._patience.pause(asyncio.get_running_loop().time())
        self._put_off()

    def resume(self) -> None:
        """Let the run's calls be sent again."""
        self._patience.resume(asyncio.get_running_loop().time())
        self._put_off()
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    async def resumed(self) -> None:
        """Wait until the run is not paused."""
        while self.paused:
            self._resumed = self._resumed or anyio.Event()
            await self._resumed.wait()

    def _put_off(self) -> None:
        for scope in self._waiting:
            scope.deadline = self._patience.due

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Wait inside, but no longer than the run does; then ``ended`` is set."""
        with anyio.CancelScope(deadline=self._patience.due) as scope:
            # Not a timer of the run: a deadline that is put off keeps its call's place in line.
            self._waiting.add(scope)
            try:
                yield
            finally:
                self._waiting.discard(scope)
        if scope.cancelled_caught:
            self._patience.end(asyncio.get_running_loop().time())
