"""``imagen-async status`` and ``merge``: how a batch stands, from its folder alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from imagen_async.batch.merge import merge as merge_shards
from imagen_async.batch.status import BatchStatus, FolderStatus, Phase, batch_status
from imagen_async.cli.console import note, result
from imagen_async.cli.exits import DONE, PARTIAL
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

PHASES: Final[tuple[Phase, ...]] = ("ended", "running", "stopped", "cut off", "not begun")


def status(folder: str, *, as_json: bool) -> int:
    """Print how a batch stands.

    Raises:
        ConfigurationError: If the folder holds none.
    """
    found = batch_status(Path(folder))
    for line in [json.dumps(found.as_json())] if as_json else _lines(found, Path(folder)):
        result(line)
    return DONE


def merge(folder: str, *, as_json: bool) -> int:
    """Write the lists, report and gallery over all shards, and say what is left.

    Raises:
        ConfigurationError: If the folder holds no shards.
    """
    found = merge_shards(Path(folder))
    for line in left_lines(found, Path(folder)):
        note(line)
    page = str(Path(folder, "index.html"))
    result(json.dumps({**found.as_json(), "out": folder, "gallery": page}) if as_json else page)
    return DONE if found.report.ok else PARTIAL


def left_lines(found: BatchStatus, folder: Path) -> list[str]:
    """Return what is left of a batch, and what it came to, in lines."""
    lines: list[str] = []
    if running := found.running:
        lines.append(f"Run by other processes: {_names(running)}.")
    if left := found.phases("stopped", "cut off", "not begun"):
        lines.append(f"Left, and taken up by the same command: {_names(left)}.")
    if idle := sum(each.idle for each in found.folders):
        lines.append(
            f"{idle:,} images of the budget are in shares of shards that need them not; others "
            "may want a larger --budget."
        )
    return [*lines, _sum(found, folder)]


def _lines(found: BatchStatus, folder: Path) -> list[str]:
    table = [_row(each) for each in found.folders] if found.shards is not None else []
    return [*table, *left_lines(found, folder)]


def _row(each: FolderStatus) -> str:
    told = BatchStatus(folders=(each,)).report
    return (
        f"{each.name}  {each.phase:9}  {told.done:>9,} done {told.failed:>7,} failed "
        f"{told.unknown:>7,} unknown"
    )


def _sum(found: BatchStatus, folder: Path) -> str:
    report = found.report
    phases = [(len(found.phases(phase)), phase) for phase in PHASES]
    where = "" if found.shards is None else f"{found.shards:,} shards, "
    told = ", ".join(f"{number:,} {phase}" for number, phase in phases if number)
    if found.shards is None:
        told = found.folders[0].phase
    bound = "about" if found.running else "at most"
    cost = "" if report.cost is None else f"; {bound} {report.cost:,.2f} spent"
    return (
        f"{printable(str(folder), 300)}: {where}{told}; {report.done:,} done "
        f"({report.images:,} images), {report.failed:,} failed, {report.unknown:,} in doubt{cost}"
    )


def _names(names: Iterable[str], shown: int = 5) -> str:
    found = list(names)
    more = f" and {len(found) - shown:,} more" if len(found) > shown else ""
    return ", ".join(found[:shown]) + more
