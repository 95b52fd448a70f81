"""When a run ends because of how its items end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from imagen_async.errors import SpoiledAnswerError

if TYPE_CHECKING:
    from imagen_async.errors import ImagenError

SPOILED: Final = 10
"""Answers in a row that are paid for and cannot be used, after which no more are bought."""


@attrs.define(eq=False)
class Brakes:
    """Count ends; plain values.

    Args:
        max_failures: How many items may end without an image; None for no bound.
    """

    max_failures: int | None = None
    _failures: int = attrs.field(init=False, default=0)
    _spoiled: int = attrs.field(init=False, default=0)

    def ended(self, error: ImagenError | None) -> tuple[str, str] | None:
        """Return why the run should end after an item did, a word and a sentence; None to go on.

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
