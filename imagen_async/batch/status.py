"""How a batch stands, read from its folder alone: no input, no gateway, at any time."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import attrs

from imagen_async.batch import lists, schema
from imagen_async.batch.accounting import Tally
from imagen_async.batch.gallery.views import count_lines, object_of, read_rows
from imagen_async.batch.journal import look
from imagen_async.batch.records import Count
from imagen_async.batch.shard_root import read_root
from imagen_async.batch.shards import all_shards
from imagen_async.batch.states import State
from imagen_async.errors import Charge, ConfigurationError
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from imagen_async.batch.ports import JournalView
    from imagen_async.batch.records import RefusedRow
    from imagen_async.batch.report import Report

Phase: TypeAlias = Literal["running", "ended", "stopped", "cut off", "not begun"]


@attrs.frozen(kw_only=True)
class FolderStatus:
    """How one run's folder stands.

    Args:
        name: The folder's.
        phase: ``running``: a process holds its journal, and the counts are those of its lists,
            which may be a moment behind and tell the cost of its images alone. ``ended``:
            its rows are settled. ``stopped``: rows were left. ``cut off``: its process ended
            without a report. ``not begun``: it has no journal.
        counts: Its items by state and charge; what a dead run left under way is unknown.
        invalid: Rows that are no request, or that may not be sent.
        report: That of the last run that came to its end, as ``report.json`` has it.
    """

    name: str
    phase: Phase
    counts: tuple[Count, ...] = ()
    invalid: int = 0
    report: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def price(self) -> float | None:
        """The price of an image, if the last run was given one."""
        spent, cost = _number(self.report, "spent"), _number(self.report, "cost")
        return cost / spent if spent and cost else None

    @property
    def idle(self) -> int:
        """Images of its share of the budget that it needed not, being at its end."""
        if self.phase != "ended":
            return 0
        at_risk = sum(count.spent + count.presumed for count in self.counts)
        return max(0, int(_number(self.report, "share")) - at_risk)


@attrs.frozen(kw_only=True)
class BatchStatus:
    """How a batch stands, in one folder or in shards.

    Args:
        folders: Of its run, or of each shard in order.
        shards: How many shards it has; None if it was run without.
    """

    folders: tuple[FolderStatus, ...]
    shards: int | None = None

    @property
    def running(self) -> list[str]:
        """The folders that a process works on."""
        return self.phases("running")

    def phases(self, *wanted: Phase) -> list[str]:
        """Return the names of the folders in these phases."""
        return [folder.name for folder in self.folders if folder.phase in wanted]

    @property
    def report(self) -> Report:
        """What all of it came to so far; every item counts as a row."""
        tally = Tally(count for folder in self.folders for count in folder.counts)
        tally.rows = tally.items
        tally.invalid = sum(folder.invalid for folder in self.folders)
        open_ones = [folder for folder in self.folders if folder.phase != "ended"]
        stopped = next((each.report for each in open_ones if each.phase == "stopped"), {})
        shares = [share for each in self.folders if (share := each.report.get("share")) is not None]
        report = tally.report(
            Counter(),
            next((price for each in self.folders if (price := each.price)), None),
            bought_before=0,
            seconds=round(sum(_number(each.report, "seconds") for each in self.folders), 3),
            partial=bool(open_ones),
            stopped_by=stopped.get("stopped_by"),
            problem=stopped.get("problem"),
        )
        return attrs.evolve(report, share=sum(shares) if shares else None)

    def as_json(self) -> Mapping[str, Any]:
        """Return the report of all, and how each shard stands, as JSON values."""
        phases = Counter(folder.phase for folder in self.folders)
        told = {**self.report.as_json(), "phases": dict(phases), "running": self.running}
        if self.shards is not None:
            told |= {"shards": self.shards, "idle": sum(folder.idle for folder in self.folders)}
        return told


def batch_status(folder: Path) -> BatchStatus:
    """Read how a batch stands.

    Args:
        folder: Of a run, or over the folders of shards.

    Raises:
        ConfigurationError: If it holds no batch, or a journal in it cannot be trusted.
    """
    if (folder / schema.NAME).exists():
        return BatchStatus(folders=(folder_status(folder),))
    begun = read_root(folder)
    if begun is None:
        shown = printable(str(folder), 300)
        raise ConfigurationError(f"{shown} holds no batch; name the folder that a batch wrote.")
    found = tuple(folder_status(folder / shard.name) for shard in all_shards(begun.shards))
    return BatchStatus(folders=found, shards=begun.shards)


def folder_status(
    folder: Path, read: Callable[[JournalView | None], object] = lambda _: None
) -> FolderStatus:
    """Read how one run's folder stands.

    Args:
        folder: The run's.
        read: Called while the journal is open and still, with it; with None where the lists tell
            the same, or a run holds it.

    Raises:
        ConfigurationError: If its journal cannot be trusted.
    """
    if not (folder / schema.NAME).exists():
        return FolderStatus(name=folder.name, phase="not begun", report=_report(folder))
    cut = False
    try:
        with look(folder) as journal:
            kept, refused = journal.counts(), [*journal.refused()]
            cut = any(count.state is State.SENDING for count in kept)
            read(None if _lists_are_whole(folder, kept, refused) else journal)
        counts, invalid, running = tuple(map(_left, kept)), len(refused), False
    except schema.HeldJournalError:
        read(None)
        counts, invalid = _listed(folder)
        running = True
    report = _report(folder)
    phase = "running" if running else _phase(counts, report, cut=cut)
    return FolderStatus(
        name=folder.name, phase=phase, counts=counts, invalid=invalid, report=report
    )


def _lists_are_whole(folder: Path, counts: list[Count], refused: list[RefusedRow]) -> bool:
    """Return whether the lists have as many rows as the journal: reading them is far quicker.

    They are made anew at each run's end. A run that was killed has added a line for each item that
    moved, whose older line is still there.
    """
    expected = Counter(lists.refused_line(row)[0] for row in refused)
    for count in counts:
        expected[lists.METADATA] += count.images
        if count.state not in (State.DONE, State.NEW):
            expected[lists.FAILED if count.state is State.FAILED else lists.UNKNOWN] += count.items
    names = (lists.METADATA, lists.FAILED, lists.UNKNOWN)
    return all(count_lines(folder / name) == expected[name] for name in names)


def _left(count: Count) -> Count:
    """Return how items stand that nobody works on: what a dead run left under way is unknown."""
    if count.state is not State.SENDING:
        return count
    return attrs.evolve(count, state=State.UNKNOWN, charge=max(count.charge, Charge.MAYBE))


def _phase(counts: Iterable[Count], report: Mapping[str, Any], *, cut: bool) -> Phase:
    if cut or not report:
        return "cut off"
    waiting = any(count.state in (State.NEW, State.RECEIVED) for count in counts)
    left = report.get("partial") or report.get("pending") or report.get("stopped_by")
    return "stopped" if left or waiting else "ended"


def _listed(folder: Path) -> tuple[tuple[Count, ...], int]:
    """Count what the lists of a running batch tell: they are added to as items settle."""
    images, done, last = 0, 0, None
    for row in read_rows(folder / lists.METADATA):
        item = [row.get(key) for key in ("id", "prompt", "request_id")]
        images, done, last = images + 1, done + (item != last), item
    failed, wrong = _rows_of(folder / lists.FAILED)
    unknown, doubtful = _rows_of(folder / lists.UNKNOWN)
    counts = (
        _count(State.DONE, Charge.YES, done, images),
        _count(State.FAILED, Charge.NO, failed),
        _count(State.UNKNOWN, Charge.MAYBE, unknown),
    )
    return counts, wrong + doubtful


def _rows_of(path: Path) -> tuple[int, int]:
    """Return how many lines of a list are items, and how many are rows that were not sent."""
    wrong = Counter("line" in row for row in read_rows(path))
    return wrong[False], wrong[True]


def _count(state: State, charge: Charge, items: int, images: int = 0) -> Count:
    return Count(
        state, charge, items, attempts=0, spent=images, presumed=0, resends=0, images=images
    )


def _report(folder: Path) -> Mapping[str, Any]:
    try:
        return object_of((folder / lists.REPORT).read_bytes()) or {}
    except OSError:
        return {}


def _number(report: Mapping[str, Any], name: str) -> float:
    value = report.get(name)
    return value if isinstance(value, int | float) else 0


def whole_rows(folder: Path, home: str) -> Iterator[lists.Line]:
    """Yield the lines of a batch's lists that are whole, with files' names as seen from above."""
    begin = lists.IMAGE_LINE + home.encode()
    with contextlib.suppress(FileNotFoundError), (folder / lists.METADATA).open("rb") as file:
        for line in file:
            if line.startswith(lists.IMAGE_LINE) and line.endswith(b"}\n"):
                yield lists.METADATA, begin + line[len(lists.IMAGE_LINE) :]
    for name in (lists.FAILED, lists.UNKNOWN):
        for row in read_rows(folder / name):
            if isinstance(files := row.get("files"), list):
                row["files"] = [f"{home}{file}" for file in files]
            yield name, lists.line(row)
