"""What a timer that rings late still gives: time to read what came while nobody could look.

A process that was stopped, a machine under load or a blocked loop comes back to answers that
wait in the socket's buffer beside a timer that is over.
"""

from __future__ import annotations

from typing import Final

import attrs

LATE: Final = 0.02
"""Seconds after its time from which a timer rang late."""
LOOK: Final = 0.2
"""Seconds between two looks at whether something came."""
LOOKS: Final = 5
"""Looks in a row that find nothing new, and then it is over."""


@attrs.frozen
class Grace:
    """The time after the end.

    Args:
        ends: Seconds of the loop's clock; nothing is read beyond it, however much comes.
        looks: That may still find nothing new.
        heard: What had come at the latest look.
    """

    ends: float
    looks: int
    heard: int


def first(due: float, now: float, total: float, heard: int) -> Grace | None:
    """Return what a timer gives that has just rung; None if it rang in time.

    Args:
        due: When it was to ring, in seconds of the loop's clock.
        now: When it rang.
        total: The seconds it was set to.
        heard: What came so far: a number that grows.
    """
    late = now - due
    if late < LATE:
        return None
    # An answer that is on its way gets back what the pause took, and no more than its whole time.
    return Grace(now + LOOK * LOOKS + min(late, total), LOOKS, heard)


def further(grace: Grace, now: float, heard: int) -> Grace | None:
    """Return what is left after a look; None if it is over.

    Args:
        grace: Of the look before.
        now: Seconds of the loop's clock.
        heard: What came so far.
    """
    if heard != grace.heard:
        return attrs.evolve(grace, looks=LOOKS, heard=heard) if now < grace.ends else None
    return attrs.evolve(grace, looks=grace.looks - 1) if grace.looks > 1 else None
