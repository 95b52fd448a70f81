"""How it is going: drawn on a terminal, else a line every few seconds; all on standard error."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Final

import attrs

from imagen_async.cli.console import draw_around, note
from imagen_async.cli.words import duration
from imagen_async.session.events import (
    Cancelled,
    Done,
    Failed,
    Queued,
    Received,
    Retrying,
    Sent,
    Throttled,
)
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType
    from rich.live import Live

    from imagen_async.session.events import Event

LINE_EVERY: Final = 5.0
"""Seconds between lines where there is no terminal."""
DRAW_EVERY: Final = 0.125
"""Seconds between two looks of a terminal."""
_WINDOW: Final = 30.0
"""Seconds over which the rate is taken: long enough for slow images, short enough to be true."""
_PHASES: Final = {
    Queued: "waiting for a free place",
    Sent: "waiting for the gateway",
    Retrying: "waiting to be sent again",
    Received: "downloading",
}


class Watch:
    """Hears a client's events, and tells what its calls wait for.

    Args:
        clock: Seconds of any steady clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._phases: dict[str, str] = {}
        self._until = 0.0
        self._reason = ""

    def hear(self, event: Event) -> None:
        """Take note of an event."""
        if isinstance(event, Throttled | Retrying):
            self._until = self._clock() + event.wait
            self._reason = printable(event.reason, 200)
        if isinstance(event, Done | Failed | Cancelled):
            self._phases.pop(event.idempotency_key, None)
        elif phase := _PHASES.get(type(event)):
            self._phases[event.idempotency_key] = phase

    @property
    def in_flight(self) -> set[str]:
        """The keys of calls that are with the gateway, or whose images are on their way."""
        flying = (_PHASES[Sent], _PHASES[Received])
        return {key for key, phase in self._phases.items() if phase in flying}

    @property
    def doing(self) -> str:
        """What the calls are at, with their numbers if there are several."""
        counts = Counter(self._phases.values())
        if counts.total() < 2:
            return "".join(counts)
        return ", ".join(f"{counts[each]} {each}" for each in _PHASES.values() if counts[each])

    @property
    def pause(self) -> str:
        """How long something is waited for before it is sent again, and why; empty if nothing."""
        left = self._until - self._clock()
        return f"waits {math.ceil(left)} s: {self._reason}" if left > 0 else ""


@attrs.frozen(kw_only=True)
class Snapshot:
    """A moment of a batch.

    Args:
        total: Rows of the input; None while not known.
        done: Items.
        failed: Items.
        unknown: Items.
        images: Images that are here.
        in_flight: Calls under way.
        rate: Items settled per second, of late.
        cost: What was or may have been spent on the folder; None without a price.
        waits: What is waited for; empty if nothing.
    """

    total: int | None
    done: int
    failed: int
    unknown: int
    images: int
    in_flight: int
    rate: float
    cost: float | None = None
    waits: str = ""

    @property
    def settled(self) -> int:
        """Items that have an end."""
        return self.done + self.failed + self.unknown

    @property
    def reached(self) -> str:
        """How far it is, and how long it will take; empty if that cannot be told."""
        if not self.total:
            return ""
        words = f"{self.settled:,} of {self.total:,} · {100 * self.settled // self.total} %"
        if self.total <= self.settled or self.rate <= 0:
            return words
        return f"{words} · {duration((self.total - self.settled) / self.rate)} left"

    @property
    def counts(self) -> str:
        """What came of it so far."""
        images = f" ({self.images:,} images)" if self.images != self.done else ""
        words = f"{self.done:,} done{images}, {self.failed:,} failed, {self.unknown:,} unknown"
        rate = f" · {self.rate * 60:,.0f}/min" if self.rate > 0 else ""
        cost = f" · at most {self.cost:,.2f} spent" if self.cost is not None else ""
        return f"{words} · {self.in_flight:,} in flight{rate}{cost}"


class Rate:
    """Items per second over a sliding window of samples."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def __call__(self, now: float, settled: int) -> float:
        """Take a sample and return the rate.

        Args:
            now: Seconds of any steady clock.
            settled: Items settled until then.
        """
        self._samples.append((now, settled))
        while len(self._samples) > 2 and now - self._samples[1][0] > _WINDOW:
            self._samples.popleft()
        then, before = self._samples[0]
        return (settled - before) / (now - then) if now > then else 0.0


class Lines:
    """Progress as plain lines, for logs and pipes."""

    def __init__(self) -> None:
        self.every = LINE_EVERY
        self.width: int | None = None

    def show(self, moment: Snapshot | str) -> None:
        """Write a moment of a batch as a line; what a single call waits for is for terminals."""
        if isinstance(moment, Snapshot):
            note(" · ".join(filter(None, (moment.reached, moment.counts, moment.waits))))

    def close(self) -> None:
        """Do nothing: lines stay."""


class Terminal:
    """Progress drawn over itself on the last lines of a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.spinner import Spinner

        self.every = DRAW_EVERY
        self._console = Console(stderr=True, highlight=False)
        self.width: int | None = self._console.width
        self._spinner = Spinner("dots", style="cyan")
        self._live = self._open()
        draw_around(self._away)

    def _open(self) -> Live:
        from rich.live import Live

        # Redirected, results for a pipe would go to the terminal.
        live = Live(
            console=self._console,
            transient=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        live.start()
        return live

    def show(self, moment: Snapshot | str) -> None:
        """Draw a moment."""
        from rich.console import Group

        if isinstance(moment, str):
            rows = [self._row(moment)]
        else:
            rows = [self._bar(moment)] if moment.total else []
            rows += [self._row(words) for words in (moment.counts, moment.waits) if words]
        self._live.update(Group(*rows), refresh=True)

    def _bar(self, moment: Snapshot) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        grid = Table.grid(expand=True, padding=(0, 1, 0, 0))
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True)
        grid.add_row(ProgressBar(moment.total, moment.settled), moment.reached)
        return grid

    def _row(self, words: str) -> RenderableType:
        from rich.text import Text

        frame = self._spinner.render(self._console.get_time())
        assert isinstance(frame, Text)
        # Not markup: reasons come from servers.
        return Text.assemble(frame, " ", printable(words), no_wrap=True, overflow="ellipsis")

    @contextlib.contextmanager
    def _away(self) -> Iterator[None]:
        self._live.stop()
        try:
            yield
        finally:
            self._live = self._open()

    def close(self) -> None:
        """Take away what is drawn."""
        draw_around(None)
        self._live.stop()


def open_progress(
    environment: Callable[[str], str | None], *, quiet: bool = False
) -> Lines | Terminal:
    """Return progress on a terminal if standard error is one that can be drawn on, else lines.

    Args:
        environment: Reads a variable.
        quiet: Whether nothing is to be drawn.
    """
    terminal = sys.stderr is not None and sys.stderr.isatty() and environment("TERM") != "dumb"
    if terminal and not quiet:
        try:
            return Terminal()
        except ModuleNotFoundError:
            pass
    return Lines()
