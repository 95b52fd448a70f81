"""Where a call waits before it may send: a slot, the shared valve, the pace; in that order.

The pace, the valve and the retry budget are plain values of the monotonic clock and outlive a
loop; the semaphore and the queue belong to one loop and are made anew for the next.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio

from imagen_async.policy.circuit import CircuitBreaker, Permit
from imagen_async.policy.rate import Rate
from imagen_async.policy.retry import RetryBudget

if TYPE_CHECKING:
    from imagen_async.policy.config import Limits


EARLY = 0.05
"""Seconds before its moment that a place in the pace is booked."""


class Gate:
    """Let at most ``concurrency`` calls in, at the configured pace, first come, first served.

    Args:
        limits: Concurrency, rate and burst.

    Attributes:
        queued: Calls that wait here.
        in_flight: Calls that were let in and have not left.
    """

    def __init__(self, limits: Limits) -> None:
        self.pacing: Rate = Rate(limits.requests_per_minute, limits.burst)
        self.valve: CircuitBreaker = CircuitBreaker(spread_over=limits.concurrency)
        self.budget: RetryBudget = RetryBudget()
        self._concurrency = limits.concurrency
        self._paced = limits.requests_per_minute is not None
        self.bind()

    def bind(self) -> None:
        """Make the parts that belong to one running loop."""
        self._slots = anyio.Semaphore(
            self._concurrency, max_value=self._concurrency, fast_acquire=True
        )
        self._turn = anyio.Lock(fast_acquire=True)
        self._changed = anyio.Event()
        self.queued: int = 0
        self.in_flight: int = 0

    def enter_at_once(self) -> Permit | None:
        """Take a slot and a grant if nobody has to wait for either; None otherwise."""
        if self.queued or self.in_flight == self._concurrency:
            return None
        now = asyncio.get_running_loop().time()
        if self._paced and self.pacing.ahead(now) > 0:
            return None
        answer = self.valve.ask(now)
        if not isinstance(answer, Permit):
            return None
        if self._paced:
            self.pacing.reserve(now)
        self._slots.acquire_nowait()
        self.in_flight += 1
        return answer

    async def enter(self) -> Permit:
        """Wait for a slot and a grant; every grant must be ended by ``leave``."""
        grant = self.enter_at_once()
        if grant is not None:
            return grant
        self.queued += 1
        try:
            await self._slots.acquire()
            try:
                grant = await self._granted()
            except BaseException:
                self._slots.release()
                raise
            self.in_flight += 1
            return grant
        finally:
            self.queued -= 1

    def leave(self) -> None:
        """Give the slot back."""
        self.in_flight -= 1
        self._slots.release()

    def refuse(self, grant: Permit, wait: float) -> bool:
        """Close for ``wait`` seconds; return whether this call is the one that closed it."""
        closed = self.valve.refuse(grant, asyncio.get_running_loop().time(), wait)
        self._tell()
        return closed

    def succeed(self, grant: Permit) -> None:
        """Note that the server took the request."""
        if self.valve.closed:
            self.valve.succeed(grant, asyncio.get_running_loop().time())
            self._tell()

    def abandon(self, grant: Permit) -> None:
        """Note that the attempt told nothing of the server's load."""
        self.valve.abandon(grant)
        if grant.probe:
            self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def _granted(self) -> Permit:
        clock = asyncio.get_running_loop().time
        while True:
            # Only the head of the queue asks and books, so that order is kept. It books shortly
            # before its moment, so that a cancelled call wastes little, and waits for the rest
            # outside, or the lateness of each would add up.
            async with self._turn:
                grant = await self._valve_opens()
                while (ahead := self.pacing.ahead(clock())) > EARLY:
                    self.abandon(grant)
                    await anyio.sleep(ahead - EARLY)
                    grant = await self._valve_opens()
                pause = self.pacing.reserve(clock())
            if pause <= 0:
                return grant
            try:
                await anyio.sleep(pause)
            except BaseException:
                self.abandon(grant)
                raise
            if grant.probe or not self.valve.closed:
                return grant
            self.abandon(grant)

    async def _valve_opens(self) -> Permit:
        clock = asyncio.get_running_loop().time
        while True:
            answer = self.valve.ask(clock())
            if isinstance(answer, Permit):
                return answer
            with anyio.move_on_after(answer.seconds):
                await self._changed.wait()
