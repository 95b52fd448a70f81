"""The end of a call's time."""

from __future__ import annotations


class Deadline:
    """A moment of the monotonic clock after which a call does nothing new.

    Args:
        ends: Seconds of the monotonic clock; infinity for never.
        total: The seconds that were given, for messages.
    """

    __slots__ = ("ends", "total")

    def __init__(self, ends: float, total: float) -> None:
        self.ends: float = ends
        self.total: float = total

    def left(self, now: float) -> float:
        """Return the seconds left at ``now``; negative once it has passed."""
        return self.ends - now

    def extend(self, seconds: float) -> None:
        """Give back seconds that did not count, such as a wait at the closed gate of a batch."""
        self.ends += seconds
