"""A gate's circuit breaker: shut by a refusal, tried by one probe, opened again gently."""

from __future__ import annotations

import math
from typing import Final

import attrs

PROBE_EVERY: Final = 5.0
"""Seconds after a probe until the next may go, should the first still be out."""

SPREAD: Final = 1.0
"""Seconds over which the waiting calls are let through after a reopening."""


@attrs.frozen(eq=False, repr=False)
class Permit:
    """Leave to send one request; each is itself and equals no other.

    Args:
        epoch: How often the breaker had closed when this was given.
        probe: Whether it tries out a closed breaker.
    """

    epoch: int
    probe: bool


@attrs.frozen(eq=False, repr=False)
class Wait:
    """No leave yet: ask again after ``seconds``, or when told that the breaker changed."""

    seconds: float


class CircuitBreaker:
    """Decide who may send while a server refuses.

    ::

        open ── a call is refused ──> closed until a time ── time is up, a call asks ──> probing
         ^                                   ^                                             │ │
         │                                   └──────────── the probe is refused ───────────┘ │
         └───────────────── the probe has any other answer; the rest are spread ─────────────┘

    Every permit is ended by exactly one of ``refuse``, ``succeed`` and ``abandon``. An empty retry
    budget closes it by ``refuse`` with a wait of ``PROBE_EVERY``.

    It holds plain values of one monotonic clock and belongs to no event loop. Callers that
    ask in turn are granted in turn. Ask last, right before sending: a permit does not keep.

    Args:
        spread_over: Calls that are let through in ``SPREAD`` seconds after a reopening.

    Attributes:
        closed: Whether only probes may pass.
    """

    def __init__(self, spread_over: int) -> None:
        self._spread_over = spread_over
        self.closed: bool = False
        self._refusals = self._epoch = 0
        self._probe: Permit | None = None
        self._until = self._next_probe = self._next_grant = self._spread_end = -math.inf

    def ask(self, now: float) -> Permit | Wait:
        """Return leave to send, or how long to wait before asking again.

        Args:
            now: Seconds of the monotonic clock.
        """
        earliest = max(self._until, self._next_probe) if self.closed else self._next_grant
        if now < earliest:
            return Wait(earliest - now)
        permit = Permit(self._epoch, probe=self.closed)
        if self.closed:
            self._probe, self._next_probe = permit, now + PROBE_EVERY
        elif now < self._spread_end:
            self._next_grant = now + SPREAD / self._spread_over
        return permit

    def closings(self, permit: Permit) -> int:
        """Return how many consecutive closings a refusal of ``permit`` makes, 1 or more.

        It is what the backoff of that refusal grows with.
        """
        return self._refusals + 1 if self._would_close(permit) else self._refusals

    def refuse(self, permit: Permit, now: float, wait: float) -> bool:
        """Close because a granted request was refused.

        One overload refuses many requests at once. Those granted before the latest closing put
        off its end and are no closing of their own, so a storm is one step of the backoff.

        Args:
            permit: The permit under which the refused request was sent.
            now: Seconds of the monotonic clock.
            wait: Seconds to stay closed, finite.

        Returns:
            Whether this was a closing: it was open, or a current probe was refused.
        """
        self._until = max(self._until, now + wait)
        if not self._would_close(permit):
            return False
        self.closed = True
        self._epoch += 1
        self._refusals += 1
        self._free_probe()
        return True

    def succeed(self, permit: Permit, now: float) -> None:
        """Open if a current probe was answered, with anything but a refusal.

        Args:
            permit: The permit under which the request was sent.
            now: Seconds of the monotonic clock.
        """
        # A probe older than the latest closing proves nothing about what the server said since.
        if self.closed and permit.epoch == self._epoch:
            self.closed = False
            self._refusals = 0
            self._until = -math.inf
            self._next_grant, self._spread_end = now, now + SPREAD

    def abandon(self, permit: Permit) -> None:
        """Let the next asker probe at once if ``permit`` is the probe that is out.

        For a request that ended without an answer: cancelled, or never sent.
        """
        if permit is self._probe:
            self._free_probe()

    def _would_close(self, permit: Permit) -> bool:
        # While closed, only probes carry the current epoch.
        return not self.closed or permit.epoch == self._epoch

    def _free_probe(self) -> None:
        self._probe, self._next_probe = None, -math.inf
