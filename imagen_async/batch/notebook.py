"""How a batch looks in a notebook: its counts over its newest images."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from imagen_async.wire.image import grid_bundle, thumbnail

if TYPE_CHECKING:
    from imagen_async.batch.report import Report
    from imagen_async.wire.generation import Generation
    from imagen_async.wire.image import Bundle, Image

SHOWN = 12
"""Images of the grid: a notebook keeps what it shows, and shows it anew at each step."""
SIDE = 256
"""Pixels of the longer side of an image in the grid."""


class Panel:
    """The newest images of a run, small, and what to say of them."""

    def __init__(self) -> None:
        self._newest: deque[Image] = deque(maxlen=SHOWN)
        self._small: dict[Image, Image] = {}

    def add(self, generation: Generation) -> None:
        """Take note of images that came."""
        self._newest.extend(generation.images)

    def bundle(self, report: Report, folder: str) -> Bundle:
        """Return the MIME bundle of what there is now.

        Args:
            report: How far the run is.
            folder: Where its images are, as text.
        """
        newest = tuple(self._newest)
        known = self._small
        self._small = {one: known.get(one) or thumbnail(one, SIDE) for one in newest}
        line = caption(report)
        return grid_bundle(self._small.values(), line, f"{folder}: {line}")


def caption(report: Report) -> str:
    """Return one line about how far a run is."""
    counts = (
        f"{report.done} done",
        f"{report.failed} failed",
        f"{report.unknown} unknown",
        f"{report.pending} pending",
        f"{report.images} images",
        f"{report.seconds:.0f} s",
    )
    stopped = () if report.stopped_by is None else (f"stopped by {report.stopped_by}",)
    return ", ".join((*counts, *stopped))
