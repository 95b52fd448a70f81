"""The timer of one exchange.

It is one call of the loop, where ``asyncio.timeout`` costs a tenth of a request; and unlike
aiohttp's own it looks at the clock when it rings.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from imagen_async.policy import grace

if TYPE_CHECKING:
    from imagen_async.session.connection import SentFlagPayload


class Alarm:
    """Cancels the running task when its time is over.

    One that rings late, because the process or the loop stood still, waits a moment for what has
    come meanwhile to be read.

    Args:
        seconds: From now.
        outgoing: What is sent, if it can be told whether it was: no late order goes out.
    """

    __slots__ = (
        *("_cancelling", "_due", "_grace", "_handle", "_loop", "_outgoing", "_rang", "_seconds"),
        *("_task", "heard"),
    )

    def __init__(self, seconds: float, outgoing: SentFlagPayload | None) -> None:
        self._loop = loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._seconds = seconds
        self._outgoing = outgoing
        self._due = due = loop.time() + seconds
        self._grace: grace.Grace | None = None
        self._rang = False
        self.heard = 0
        self._handle = loop.call_at(due, self._ring)

    def stop(self) -> bool:
        """End it; return whether the task's cancellation, now undone, was its own alone."""
        self._handle.cancel()
        if not self._rang:
            return False
        self._rang = False
        return self._task.uncancel() <= self._cancelling

    def _ring(self) -> None:
        now = self._loop.time()
        if self._grace is not None:
            self._grace = grace.further(self._grace, now, self.heard)
        elif self._outgoing is None or self._outgoing.sent:
            self._grace = grace.first(self._due, now, self._seconds, self.heard)
        if self._grace is not None:
            self._handle = self._loop.call_at(now + grace.LOOK, self._ring)
            return
        self._rang = True
        self._task.cancel()
