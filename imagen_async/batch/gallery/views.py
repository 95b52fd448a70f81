"""What a batch keeps, as cards: the one place that knows the rows of its lists."""

from __future__ import annotations

import json
import os
import shlex
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs

from imagen_async.batch import lists, recovery
from imagen_async.batch.gallery.card import card_of, scalar
from imagen_async.batch.journal import look
from imagen_async.batch.schema import NAME, HeldJournalError
from imagen_async.batch.states import State
from imagen_async.errors import Charge, ConfigurationError
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from imagen_async.batch.gallery.card import Card, Status

Row = dict[str, Any]

LINE_LIMIT: Final = 64 << 20
"""Bytes of one row; a longer line is junk."""

SHOWN: Final = 100_000
"""Cards of one status that a page holds: what a browser bears; ``About.listed`` tells of more."""
_BLOCK: Final = 1 << 20

VIEWS: Final[dict[Status, str]] = {
    "done": lists.METADATA,
    "unknown": lists.UNKNOWN,
    "failed": lists.FAILED,
}
"""Status -> the batch's list of its rows, in the order in which the page shows them."""

_REPORTED = ("pending", "seconds", "cost", "stopped_by")
_FLAGS = {"model": "--model", "aspect_ratio": "--aspect-ratio", "n": "-n"}


@attrs.frozen
class Doubts:
    """What a run that did not come to its end left behind.

    Args:
        rows: Those whose requests were under way as it was killed, as rows of the list of what is
            in doubt.
        phase: ``running`` while a run holds the journal, ``interrupted`` if it was cancelled and
            its lists were not made anew.
    """

    rows: tuple[Row, ...] = ()
    phase: Literal["", "running", "interrupted"] = ""


NO_DOUBTS: Final = Doubts()


@attrs.frozen(kw_only=True)
class About:
    """What the page says of the whole batch.

    Args:
        title: Its heading.
        report: Of the last run: ``pending``, ``seconds``, ``cost``, ``stopped_by``.
        in_doubt: How many requests were under way when the run was killed.
        phase: Of the run when the page was written; see Doubts.
        retry: By status: the command that tries its rows of ``retry.jsonl`` again.
        lists: By status: the path of its list, for a shell.
        listed: By status: how many rows its list has, where the page may not hold all of them.
    """

    title: str
    report: Mapping[str, Any] = attrs.field(factory=dict)
    in_doubt: int = 0
    phase: str = ""
    retry: Mapping[str, str] = attrs.field(factory=dict)
    lists: Mapping[str, str] = attrs.field(factory=dict)
    listed: Mapping[str, int] = attrs.field(factory=dict)


def check(folder: Path) -> None:
    """Raise ConfigurationError unless a folder holds a list of a batch."""
    if not any((folder / name).is_file() for name in (*VIEWS.values(), NAME)):
        shown = printable(str(folder), 300)
        if (folder / recovery.RUN).is_file():
            raise ConfigurationError(f"{shown} has no lists yet; imagen-async merge writes them.")
        raise ConfigurationError(f"{shown} holds no batch; name the folder that a batch wrote.")


def cards(folder: Path, doubts: Doubts = NO_DOUBTS, *, last: int | None = None) -> Iterator[Card]:
    """Yield the cards of a batch's folder, status by status, ``SHOWN`` of each list at most.

    Args:
        folder: The batch's.
        doubts: What a run left behind, whose rows are shown too.
        last: Bytes at the end of each list that are read; None for all.
    """
    for status, name in VIEWS.items():
        if status == "unknown":
            yield from (card_of(status, row) for row in doubts.rows)
        yield from (card_of(status, row) for row in islice(read_rows(folder / name, last), SHOWN))


def read_rows(path: Path, last: int | None = None) -> Iterator[Row]:
    """Read a list's rows one by one, past whatever is not a row.

    Args:
        path: A JSON Lines file; one that is missing has no rows.
        last: Bytes at its end that are read; None for all.

    Yields:
        Each line that is a JSON object.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        if last is not None and file.seek(0, os.SEEK_END) > last:
            file.seek(-last, os.SEEK_END)
            file.readline(LINE_LIMIT)  # the rest of a row
        else:
            file.seek(0)
        for line in iter(partial(file.readline, LINE_LIMIT), b""):
            row = object_of(line)
            if row is not None:
                yield row


def count_lines(path: Path) -> int:
    """Return how many lines a list has; -1 if it cannot be read."""
    try:
        with path.open("rb") as file:
            return sum(block.count(b"\n") for block in iter(partial(file.read, _BLOCK), b""))
    except OSError:
        return -1


def in_doubt(folder: Path) -> Doubts:
    """Ask the journal what was under way when its run was killed; one that fails tells nothing."""
    try:
        with look(folder) as journal:
            cut = [*journal.items((State.SENDING,))]
    except HeldJournalError:
        return Doubts(phase="running")
    except ConfigurationError:
        return NO_DOUBTS
    for item in cut:
        item.state, item.charge = State.UNKNOWN, max(item.charge, Charge.MAYBE)
    found = (line for item in cut for name, line in lists.lines(item) if name == lists.UNKNOWN)
    return Doubts(tuple(map(json.loads, found)))


def about(folder: Path, doubts: Doubts = NO_DOUBTS) -> About:
    """Return what the page says of a batch; a report or a note of it that is torn says nothing."""
    # The report is that of the last run that came to its end, which the killed one was not.
    fresh = not doubts.rows and doubts.phase != "running"
    report = _read(folder / lists.REPORT) if fresh else {}
    name = folder.resolve().name or "."
    begun = _read(folder / recovery.RUN)
    again = _command(begun, name)
    # A name that cannot be shown as it is would be another one in the command.
    retry = {"failed": f"{again} --retry-failed", "unknown": f"{again} --on-unknown resend"}
    return About(
        title=printable(name, 200),
        report={key: told for key in _REPORTED if (told := scalar(report.get(key))) is not None},
        in_doubt=len(doubts.rows),
        phase=doubts.phase,
        retry=retry if again.isprintable() and "shards" not in begun else {},
        lists={each: shlex.quote(f"{name}/{VIEWS[each]}") for each in ("failed", "unknown")},
        listed={
            status: rows
            for status, name in VIEWS.items()
            if (rows := count_lines(folder / name)) > (0 if doubts.phase else SHOWN)
        },
    )


def _command(begun: Row, name: str) -> str:
    """Return a command that goes on with a batch under the options it was begun with."""
    options = begun.get("options")
    parts = ["imagen-async", "batch", "retry.jsonl", "--out", name]
    for field, flag in _FLAGS.items():
        if isinstance(options, dict) and isinstance(options.get(field), (str, int)):
            parts += [flag, str(options[field])]
    if begun.get("base_url") == "emulator":
        parts.append("--emulator")
    return shlex.join(parts)


def _read(path: Path) -> Row:
    try:
        return object_of(path.read_bytes()) or {}
    except FileNotFoundError:
        return {}


def object_of(text: bytes) -> Row | None:
    """Return a line's JSON object; None if it is anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
