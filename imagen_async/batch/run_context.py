"""What the items of one run share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imagen_async.batch.accounting import Tally
    from imagen_async.batch.ports import Journal
    from imagen_async.batch.stopping import StopPolicy


@attrs.define(eq=False, kw_only=True)
class RunContext:
    """What the items of one run share.

    Args:
        folder: Where images, journal and lists are.
        journal: Where each step is kept before it is acted on.
        tally: What is counted.
        policy: When the run stops.
        stop: Stops it: nothing more is sent. Takes a word and a sentence for the report.
        on_unknown: What becomes of paid answers of earlier runs whose links are dead.
        key_honoured: Whether a second request under the same key buys nothing.
        stopped: Whether it has stopped.
    """

    folder: Path
    journal: Journal
    tally: Tally
    policy: StopPolicy
    stop: Callable[[str, str], None]
    on_unknown: str
    key_honoured: bool
    stopped: bool
