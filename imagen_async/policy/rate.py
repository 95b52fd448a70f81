"""A steady rate of requests, as bookings on one line of time."""

from __future__ import annotations

import math


class Rate:
    """The generic cell rate algorithm (ITU-T I.371, annex A) as a reservation.

    In any window of w seconds at most ``burst + w * requests_per_minute / 60`` booked requests
    begin. A fresh or idle pace grants ``burst`` at once, never a minute's worth. Each booking is
    later than the one before, so callers that reserve in turn are served in turn.

    It holds plain values of one monotonic clock and belongs to no event loop.

    Args:
        requests_per_minute: The steady rate; None for no limit.
        burst: Requests that may begin at once after a pause; 1 spaces them evenly.
    """

    __slots__ = ("_arrival", "_interval", "_slack")

    def __init__(self, requests_per_minute: float | None, burst: int) -> None:
        self._interval = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._slack = self._interval * (burst - 1)
        self._arrival = -math.inf

    def ahead(self, now: float) -> float:
        """Return how long the next booking would have to wait, without booking.

        Args:
            now: Seconds of the monotonic clock.

        Returns:
            Seconds, 0.0 or more.
        """
        return max(0.0, self._arrival - self._slack - now)

    def reserve(self, now: float) -> float:
        """Book the next place and return how long to wait for it.

        Args:
            now: Seconds of the monotonic clock.

        Returns:
            Seconds, 0.0 or more.
        """
        wait = self.ahead(now)
        self._arrival = max(self._arrival, now) + self._interval
        return wait
