"""What a gateway holds its callers to: a rate, a number of slots, a balance."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


MINUTE = 60.0


class RateWindow:
    """At most so many requests of a key in any one minute.

    Args:
        limit: Requests in a minute; None for no limit.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._taken: defaultdict[str, deque[float]] = defaultdict(deque)

    def take(self, key: str, now: float) -> float | None:
        """Count a request; return None, or the seconds until there is room if there is none.

        A request turned away is not counted.

        Args:
            key: Whose request.
            now: The caller's clock, in seconds.
        """
        if self._limit is None:
            return None
        taken = self._taken[key]
        while taken and taken[0] <= now - MINUTE:
            taken.popleft()
        if len(taken) >= self._limit:
            return taken[0] + MINUTE - now
        taken.append(now)
        return None


class QueueFullError(Exception):
    """No slot is free, and the queue is full."""


class Slots:
    """Generations at once, and a queue for more, per key.

    Args:
        concurrency: Slots of each key; None for no limit.
        queue: How many of a key may wait.
    """

    def __init__(self, concurrency: int | None, queue: int) -> None:
        self._concurrency = concurrency
        self._queue = queue
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._waiting: defaultdict[str, int] = defaultdict(int)

    def clear(self) -> None:
        """Forget every slot: they belong to a loop, and the next start may be in another."""
        self._slots.clear()
        self._waiting.clear()

    @asynccontextmanager
    async def held(self, key: str) -> AsyncIterator[None]:
        """Hold a slot.

        Raises:
            QueueFullError: If the queue is full.
        """
        if self._concurrency is None:
            yield
            return
        slots = self._slots.setdefault(key, asyncio.Semaphore(self._concurrency))
        if slots.locked() and self._waiting[key] >= self._queue:
            raise QueueFullError
        self._waiting[key] += 1
        try:
            await slots.acquire()
        finally:
            self._waiting[key] -= 1
        try:
            yield
        finally:
            slots.release()


class Balances:
    """Images that each key can still pay for.

    Args:
        start: What each key starts with, in images; None for no end.
    """

    def __init__(self, start: int | None) -> None:
        self._start = start
        self._held: dict[str, int] = {}

    def pay(self, key: str, images: int) -> bool:
        """Take the price; return whether there was enough."""
        if self._start is None:
            return True
        left = self._held.get(key, self._start) - images
        if left < 0:
            return False
        self._held[key] = left
        return True
