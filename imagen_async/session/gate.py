"""Where a call waits before it may send: a slot, the circuit breaker, the pace; in that order.

``Gate`` is what a client needs of it; ``LocalGate`` bounds one client, and a limiter that a whole
fleet shares may stand in its place.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import anyio

from imagen_async.policy.circuit import CircuitBreaker, Permit
from imagen_async.policy.rate import Rate

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from imagen_async.policy.config import Limits


EARLY = 0.05
"""Seconds before its moment that a place in the pace is booked."""


class Gate(Protocol):
    """Let calls in, and hear how they fared; each permit is given back by ``leave``.

    The steps of a call that goes well cost no await where none is needed: ``enter_at_once`` may
    always return None, and ``leave`` may have nothing left to wait for.
    """

    @property
    def queued(self) -> int:
        """Calls of this client that wait here."""
        ...

    @property
    def in_flight(self) -> int:
        """Calls of this client that were let in and have not left."""
        ...

    def bind(self) -> None:
        """Belong to the running loop from now on; the loop before has ended."""

    def enter_at_once(self) -> Permit | None:
        """Return a permit if it is known that nobody has to wait; None otherwise."""

    async def enter(self) -> Permit:
        """Wait for a permit. It may be cancelled at any await, and then holds nothing.

        Raises:
            ImagenError: If there will be none: the call ends with it, and was not sent.
        """
        ...

    def answered(self, permit: Permit) -> None:
        """Note that the server took the request; it may be told to others in ``leave``.

        It does not wait: the answer may be paid for, and is not yet kept.
        """

    async def closings(self, permit: Permit) -> int:
        """Return how many closings in a row a refusal makes now: its backoff grows with them."""
        ...

    async def refuse(self, permit: Permit, wait: float) -> bool:
        """Close for ``wait`` seconds; return whether this call is the one that closed it."""
        ...

    def leave(self, permit: Permit) -> Coroutine[object, object, None] | None:
        """Give a permit back, however its call ended; return what is left to wait for, if any.

        Of an attempt that was neither answered nor refused nothing is known. What is returned is
        run whole even if the call is cancelled; it must not raise, for the call has its result.
        """


class LocalGate:
    """Let at most ``concurrency`` calls in, at the configured pace, first come, first served.

    The pace and the circuit breaker are plain values of the monotonic clock and outlive a loop;
    the semaphore and the queue belong to one loop and are made anew for the next.

    Args:
        limits: Concurrency, rate and burst.
    """

    def __init__(self, limits: Limits) -> None:
        self._rate = Rate(limits.requests_per_minute, limits.burst)
        self._breaker = CircuitBreaker(spread_over=limits.concurrency)
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
        """Take a slot and a permit if nobody has to wait for either; None otherwise."""
        if self.queued or self.in_flight == self._concurrency:
            return None
        now = asyncio.get_running_loop().time()
        if self._paced and self._rate.ahead(now) > 0:
            return None
        permit = self._breaker.ask(now)
        if not isinstance(permit, Permit):
            return None
        if self._paced:
            self._rate.reserve(now)
        self._slots.acquire_nowait()
        self.in_flight += 1
        return permit

    async def enter(self) -> Permit:
        """Wait for a slot and a permit."""
        permit = self.enter_at_once()
        if permit is not None:
            return permit
        self.queued += 1
        try:
            await self._slots.acquire()
            try:
                permit = await self._permitted()
            except BaseException:
                self._slots.release()
                raise
            self.in_flight += 1
            return permit
        finally:
            self.queued -= 1

    def answered(self, permit: Permit) -> None:
        """Note that the server took the request."""
        if self._breaker.closed:
            self._breaker.succeed(permit, asyncio.get_running_loop().time())
            self._tell()

    async def closings(self, permit: Permit) -> int:
        """Return how many closings in a row a refusal makes now."""
        return self._breaker.closings(permit)

    async def refuse(self, permit: Permit, wait: float) -> bool:
        """Close for ``wait`` seconds; return whether this call is the one that closed it."""
        closed = self._breaker.refuse(permit, asyncio.get_running_loop().time(), wait)
        self._tell()
        return closed

    def leave(self, permit: Permit) -> None:
        """Give slot and permit back."""
        if permit.probe:
            self._abandon(permit)
        self.in_flight -= 1
        self._slots.release()

    def _abandon(self, permit: Permit) -> None:
        """Let the next call probe at once, if ``permit`` is a probe that told nothing."""
        if permit.probe:
            self._breaker.abandon(permit)
            self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def _permitted(self) -> Permit:
        clock = asyncio.get_running_loop().time
        while True:
            # Only the head of the queue asks and books, so that order is kept. It books shortly
            # before its moment, so that a cancelled call wastes little, and waits for the rest
            # outside, or the lateness of each would add up.
            async with self._turn:
                permit = await self._breaker_opens()
                while (ahead := self._rate.ahead(clock())) > EARLY:
                    self._abandon(permit)
                    await anyio.sleep(ahead - EARLY)
                    permit = await self._breaker_opens()
                pause = self._rate.reserve(clock())
            if pause <= 0:
                return permit
            try:
                await anyio.sleep(pause)
            except BaseException:
                self._abandon(permit)
                raise
            if permit.probe or not self._breaker.closed:
                return permit
            self._abandon(permit)

    async def _breaker_opens(self) -> Permit:
        clock = asyncio.get_running_loop().time
        while True:
            answer = self._breaker.ask(clock())
            if isinstance(answer, Permit):
                return answer
            with anyio.move_on_after(answer.seconds):
                await self._changed.wait()
