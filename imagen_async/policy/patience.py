"""How long a run goes on while nothing comes of it: a dead port, or a server that only refuses."""

from __future__ import annotations

import math
from typing import Final

import attrs

from imagen_async.errors import Verdict
from imagen_async.policy.config import positive

UNREACHED_FOR: Final = 60.0
"""Seconds for which a run goes on that never reached anything."""
REFUSED_FOR: Final = 1800.0
"""Seconds for which a run goes on that is only refused, or that lost the server on the way."""


@attrs.define(eq=False, repr=False, on_setattr=[])
class Patience:
    """Tell when a run should end because no request gets through; plain values of one clock.

    Any answer but a refusal begins the count anew, and so does an outcome that is not known: it
    was reached.

    Args:
        give_up_after: Seconds, in place of both limits.

    Raises:
        ConfigurationError: If that is not a number above 0.
    """

    give_up_after: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(positive)
    )
    ended: str | None = attrs.field(init=False, default=None)
    """``unreachable`` or ``refused``, once the run is over."""
    _since: float | None = attrs.field(init=False, default=None)
    _ever_reached: bool = attrs.field(init=False, default=False)
    _refused: bool = attrs.field(init=False, default=False)
    _paused: float | None = attrs.field(init=False, default=None)

    def tell(self, verdict: Verdict, now: float) -> bool:
        """Note how an attempt ended; return whether ``due`` has changed.

        Args:
            verdict: Of the attempt.
            now: Seconds of the monotonic clock.
        """
        before = self.due
        if verdict is not Verdict.NOT_SENT:
            self._ever_reached = True
        if verdict in (Verdict.NOT_SENT, Verdict.REFUSED):
            self._since = now if self._since is None else self._since
            self._refused = self._refused or verdict is Verdict.REFUSED
        else:
            self._since, self._refused = None, False
        return self.due != before

    @property
    def due(self) -> float:
        """The moment at which the run is over if nothing else comes; infinite while all is well."""
        if self._since is None or self._paused is not None:
            return math.inf
        return self._since + self._limit

    @property
    def paused(self) -> bool:
        """Whether the run is paused, which uses up no patience."""
        return self._paused is not None

    def pause(self, now: float) -> None:
        """Count no time from now on."""
        self._paused = now if self._paused is None else self._paused

    def resume(self, now: float) -> None:
        """Count time again, and none of the pause."""
        if self._since is not None and self._paused is not None:
            self._since += now - max(self._since, self._paused)
        self._paused = None

    def end(self, now: float) -> None:
        """Note that the run is over if its time has come."""
        if now >= self.due:
            self.ended = self.ended or ("refused" if self._refused else "unreachable")

    @property
    def problem(self) -> str:
        """Why the run is over, as part of a sentence; empty while it is not."""
        if self.ended is None:
            return ""
        what = "every request was refused" if self.ended == "refused" else "nothing was reached"
        return f"{what} for {self._limit:g} s (give_up_after)"

    @property
    def _limit(self) -> float:
        if self.give_up_after is not None:
            return self.give_up_after
        return REFUSED_FOR if self._ever_reached else UNREACHED_FOR
