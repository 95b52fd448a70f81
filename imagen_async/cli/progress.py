"""How a batch is going: a bar on a terminal, else a line every few seconds; all on stderr."""

from __future__ import annotations

import sys
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

import attrs

from imagen_async.cli.console import note
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

LINE_EVERY: Final = 5.0
"""Seconds between lines where there is no terminal."""
BAR_EVERY: Final = 0.2
"""Seconds between two looks of the bar."""
_WINDOW: Final = 30.0
"""Seconds over which the rate is taken: long enough for slow images, short enough to be true."""


@attrs.frozen(kw_only=True)
class Snapshot:
    """A moment of a batch.

    Args:
        total: Rows of the input; None while not known.
        done: Items.
        failed: Items.
        unknown: Items.
        images: Images that are here.
        rate: Items settled per second, of late.
        waits: What the gate waits for; empty if nothing.
    """

    total: int | None
    done: int
    failed: int
    unknown: int
    images: int
    rate: float
    waits: str = ""

    @property
    def settled(self) -> int:
        """Items that have an end."""
        return self.done + self.failed + self.unknown

    @property
    def line(self) -> str:
        """The moment in words."""
        of = "" if self.total is None else f" of {self.total:,}"
        parts = [
            f"{self.done:,}{of} done, {self.failed:,} failed, {self.unknown:,} unknown",
            f"{self.images:,} images",
        ]
        if self.rate > 0:
            parts.append(f"{self.rate * 60:,.0f}/min")
            if self.total is not None and self.total > self.settled:
                parts.append(f"{duration((self.total - self.settled) / self.rate)} left")
        return "; ".join(parts)


def duration(seconds: float) -> str:
    """Return seconds in words, with two units at most."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


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


class Progress(Protocol):
    """Shows snapshots and notes."""

    every: float

    def show(self, snapshot: Snapshot) -> None:
        """Show a moment."""

    def note(self, line: str) -> None:
        """Write a line that stays."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class Lines:
    """Progress as plain lines, for logs and pipes."""

    def __init__(self) -> None:
        self.every = LINE_EVERY

    def show(self, snapshot: Snapshot) -> None:
        """Write a moment as a line."""
        note(f"{snapshot.line}; {snapshot.waits}" if snapshot.waits else snapshot.line)

    def note(self, line: str) -> None:
        """Write a line."""
        note(line)

    def close(self) -> None:
        """Do nothing: lines stay."""


class Bar:
    """Progress as one line of a terminal that is drawn over."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        self.every = BAR_EVERY
        self._bar = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=10),
            # Not markup: reasons come from servers.
            TextColumn("{task.description}", markup=False),
            console=Console(stderr=True, highlight=False),
            transient=True,
            auto_refresh=False,
        )
        self._task = self._bar.add_task("", total=None)
        self._bar.start()

    def show(self, snapshot: Snapshot) -> None:
        """Draw a moment."""
        self._bar.update(
            self._task,
            completed=snapshot.settled,
            total=snapshot.total,
            description=f"{snapshot.line}\n{snapshot.waits}".rstrip(),
            refresh=True,
        )

    def note(self, line: str) -> None:
        """Write a line above the bar."""
        self._bar.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()


def open_progress(environment: Callable[[str], str | None]) -> Progress:
    """Return a bar if standard error is a terminal that can draw one, and rich is there.

    Args:
        environment: Reads a variable.
    """
    if sys.stderr is not None and sys.stderr.isatty() and environment("TERM") != "dumb":
        try:
            return Bar()
        except ModuleNotFoundError:
            pass
    return Lines()
