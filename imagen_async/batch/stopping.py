"""When a run stops for all its items: by an error, by a bound of the user, or by a bad series."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import attrs

from imagen_async.errors import (
    ConfigurationError,
    ImagenError,
    QuotaError,
    RejectedError,
    SaveError,
    SpoiledAnswerError,
    Verdict,
)
from imagen_async.session.patience import SharedPatience

if TYPE_CHECKING:
    from imagen_async.batch.accounting import Tally

SPOILED: Final = 10
"""Answers in a row that are paid for and cannot be used, after which no more are bought."""
_REASONS = ((QuotaError, "quota"), (SaveError, "disk"), (ConfigurationError, "client"))

Stop: TypeAlias = tuple[str, str]
"""Why a run stops: a word for the report, and a sentence."""


class StoppedError(Exception):
    """The run has stopped: the item stays as it was and nothing is sent."""


@attrs.define(eq=False, kw_only=True)
class StopPolicy:
    """Decide when a run stops; plain values, but for the patience that its calls share.

    Args:
        max_failures: How many items may end without an image; None for no bound.
        allowance: How many images of the price may be charged in all; None for no bound.
        price: Of an image, for those whose cost the gateway does not tell.
        patience: How long nothing may come of the run.
    """

    max_failures: int | None = None
    allowance: float | None = None
    price: float | None = None
    patience: SharedPatience = attrs.field(factory=SharedPatience)
    _failures: int = attrs.field(init=False, default=0)
    _spoiled: int = attrs.field(init=False, default=0)

    def before(self, images: int, tally: Tally) -> Stop | None:
        """Return why an attempt may not be sent, or None.

        Args:
            images: How many images it may buy.
            tally: What was or may have been charged so far.
        """
        if self.allowance is None or tally.at_risk(self.price) + images <= self.allowance:
            return None
        presumed = tally.presumed
        kept = f": {presumed} that count as not charged are kept back" if presumed else ""
        return "budget", f"The budget has no room for {images} more image(s){kept}."

    def at(self, error: ImagenError) -> Stop | None:
        """Return why one item's error stops the run for all, or None."""
        reason = next((word for kind, word in _REASONS if isinstance(error, kind)), None)
        if isinstance(error, RejectedError) and error.authentication:
            reason = "authentication"
        elif reason is None and error.verdict in (Verdict.NOT_SENT, Verdict.REFUSED):
            reason = self.patience.ended
        return None if reason is None else (reason, str(error))

    def after(self, error: ImagenError | None) -> Stop | None:
        """Count an item that ended; return why the run should then stop, or None.

        Args:
            error: How it ended; None if it is done.
        """
        if error is None:
            self._spoiled = 0
            return None
        self._failures += 1
        self._spoiled += isinstance(error, SpoiledAnswerError)
        if self.max_failures is not None and self._failures >= self.max_failures:
            return "max_failures", f"{self._failures} items ended without an image."
        if self._spoiled < SPOILED:
            return None
        problem = (
            f"{self._spoiled} answers in a row were paid for and cannot be used, the last so: "
            f"{error.message} Try one prompt with generate, or ask the gateway's support."
        )
        return "spoiled", problem
