"""What the items of one run share, and what ends the run for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from imagen_async.errors import (
    ConfigurationError,
    ImagenError,
    QuotaError,
    RejectedError,
    SaveError,
)
from imagen_async.session.patience import SharedPatience

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imagen_async.batch.journal import Journal
    from imagen_async.batch.report import Tally


class StoppedError(Exception):
    """The intake has stopped: the item stays as it was and nothing is sent."""


def stop_reason(error: ImagenError) -> str | None:
    """Return why an error of one item ends the intake for all, or None."""
    if isinstance(error, QuotaError):
        return "quota"
    if isinstance(error, SaveError):
        return "disk"
    if isinstance(error, ConfigurationError):
        return "client"
    if isinstance(error, RejectedError) and error.authentication:
        return "authentication"
    return None


@attrs.define(eq=False, kw_only=True)
class RunContext:
    """What the entries of one run share.

    Args:
        folder: The run's folder.
        journal: Where steps are kept.
        tally: What is counted.
        stop: Ends the intake, with a word and a sentence.
        allowance: How many images may be charged in all; None for no bound.
        patience: How long nothing may come of the run.
        on_unknown: What becomes of paid answers of earlier runs whose links are dead.
        stopped: Whether it has ended.
    """

    folder: Path
    journal: Journal
    tally: Tally
    stop: Callable[[str, str], None]
    allowance: float | None = None
    patience: SharedPatience = attrs.field(factory=SharedPatience)
    on_unknown: str = "hold"
    stopped: bool = False
