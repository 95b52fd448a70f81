"""The lists beside the journal, for people and programs: what is here, failed, or unsure.

They are views: lines are added as items settle, and the journal makes them anew at the end of
each run. Rows of ``failed.jsonl`` and ``unknown.jsonl`` can be an input again. Like the journal
they are for their owner alone: prompts are in them. Images are what is shared, as the umask says.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import attrs

from imagen_async.batch.item_files import is_cut
from imagen_async.batch.records import KeptError, unstructured
from imagen_async.batch.states import State
from imagen_async.errors import Charge
from imagen_async.storage import disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from imagen_async.batch.ports import JournalView
    from imagen_async.batch.records import Item, KeptImage, RefusedRow, RequestRow

METADATA = "metadata.jsonl"
FAILED = "failed.jsonl"
UNKNOWN = "unknown.jsonl"
REPORT = "report.json"
IMAGE_LINE = b'{"file_name": "'
"""How each line of an image begins."""
_PRETTY = json.JSONEncoder(ensure_ascii=False, separators=(", ", ": "))
_ASCII = json.JSONEncoder(separators=(", ", ": "))
_LOST = KeptError(
    type="OutcomeUnknownError",
    message="The process ended while the request was under way, or an attempt may have cost.",
)
_WAITING = KeptError(
    type="DownloadError",
    message="The images are paid for and not downloaded yet; the next run fetches them.",
)
_DOUBTFUL = (State.UNKNOWN, State.RECEIVED, State.DROPPED)

Line: TypeAlias = tuple[str, bytes]
"""A view's name and a line for it."""


def line(row: Mapping[str, Any]) -> bytes:
    """Return a row as a line of UTF-8 JSON; a lone surrogate is escaped."""
    try:
        return _PRETTY.encode(row).encode() + b"\n"
    except UnicodeEncodeError:
        return _ASCII.encode(row).encode() + b"\n"


def lines(item: Item, home: str = "") -> Iterator[Line]:
    """Yield the lines that show an item: its images that are whole, and how it failed.

    Args:
        item: As the journal keeps it.
        home: What files' names begin with where the lists lie above the run's folder.
    """
    for image in item.files.values():
        if not is_cut(image.file_name or ""):
            yield METADATA, line(_image_row(item, image, home))
    if item.state is not State.FAILED and item.state not in _DOUBTFUL:
        return
    told = item.error or (_WAITING if item.state is State.RECEIVED else _LOST)
    key = told.idempotency_key or item.idempotency_key
    told = attrs.evolve(told, charge=item.charge, idempotency_key=key)
    row = {**_flat(item.row), "error": unstructured(told)}
    if item.state is State.FAILED:
        yield FAILED, line(row)
        return
    if files := [home + name for name in item.files]:
        row["files"] = files
    if item.state is State.DROPPED:
        row["dropped"] = True
    yield UNKNOWN, line(row)


def _image_row(item: Item, image: KeptImage, home: str) -> Mapping[str, Any]:
    """Return one row of a Hugging Face imagefolder: every row has every column."""
    request, answer = item.row.request, item.answer
    return {
        "file_name": f"{home}{image.file_name}",
        "id": item.row.id,
        "prompt": request.prompt,
        "model": request.model,
        "aspect_ratio": request.aspect_ratio,
        "width": image.width,
        "height": image.height,
        "media_type": image.media_type,
        "bytes": image.bytes,
        "sha256": image.sha256,
        "request_id": answer and answer.request_id,
        "created": answer and answer.created,
        **item.row.columns,
    }


def _flat(row: RequestRow | RefusedRow) -> Mapping[str, Any]:
    """Return a row with the user's own columns beside its fields, as an input has them."""
    fields = {**unstructured(row)}
    own = fields.pop("columns", {})
    return {**fields, **own}


def refused_line(row: RefusedRow) -> Line:
    """Return the line of an input row that was not sent; it may have cost before."""
    return FAILED if row.error.charge is Charge.NO else UNKNOWN, line(_flat(row))


def rewrite(journal: JournalView, folder: Path) -> None:
    """Make the views anew from the journal, each replaced in one step.

    Raises:
        OSError: If the disk does not take them; the old ones stay.
    """
    with replaced(folder) as add:
        add(all_lines(journal))


def all_lines(journal: JournalView, home: str = "") -> Iterator[Line]:
    """Yield the lines of a whole journal; what was under way as it was left is in doubt."""
    for item in journal.items((State.DONE, State.FAILED, *_DOUBTFUL, State.SENDING)):
        if item.state is State.SENDING:
            item.state, item.charge = State.UNKNOWN, max(item.charge, Charge.MAYBE)
        yield from lines(item, home)
    yield from map(refused_line, journal.refused())


@contextlib.contextmanager
def replaced(folder: Path) -> Iterator[Callable[[Iterable[Line]], None]]:
    """Yield what adds lines to new views, which replace the old ones at the end of the block.

    Raises:
        OSError: If the disk does not take them; the old ones stay.
    """
    parts = {name: _part_of(folder / name) for name in (METADATA, FAILED, UNKNOWN)}
    files: dict[str, IO[bytes]] = {}
    with contextlib.ExitStack() as stack:
        for name, part in parts.items():
            stack.callback(disk.remove, part)
            files[name] = stack.enter_context(disk.open_private(part, "wb"))

        def add(found: Iterable[Line]) -> None:
            for name, text in found:
                files[name].write(text)

        yield add
        for file in files.values():
            file.close()
        for name, part in parts.items():
            part.replace(folder / name)


def write_whole(path: Path, text: str) -> None:
    """Replace a small file in one step, durably.

    Raises:
        OSError: If the disk does not take it; the old one stays.
    """
    part = _part_of(path)
    try:
        with disk.open_private(part, "wb") as file:
            file.write(text.encode())
            file.flush()
            disk.sync(file.fileno())
        part.replace(path)
        disk.sync_folder(path.parent)
    finally:
        disk.remove(part)


def write_report(folder: Path, told: Mapping[str, Any]) -> None:
    """Replace a folder's ``report.json`` in one step, durably.

    Raises:
        OSError: If the disk does not take it; the old one stays.
    """
    write_whole(folder / REPORT, json.dumps(told, indent=1) + "\n")


def _part_of(path: Path) -> Path:
    return path.with_name(f".{path.name}{disk.PART}")


class Appender:
    """Adds lines to the views while a run goes on; none is synced.

    Lines of one turn of the loop are written together, which spares a system call for each.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, IO[bytes]] = {}
        self._waiting: dict[str, list[bytes]] = {}
        self.problem: str | None = None

    def add(self, found: Iterable[Line]) -> None:
        """Add lines."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self.flush)
        for name, text in found:
            self._waiting.setdefault(name, []).append(text)

    def flush(self) -> None:
        """Write what waits; a disk that does not take it is noted: the journal has it all."""
        waiting, self._waiting = self._waiting, {}
        if self.problem is not None:
            return
        try:
            for name, lines in waiting.items():
                file = self._files.get(name)
                if file is None:
                    file = self._files[name] = _open(self._folder / name)
                file.write(b"".join(lines))
        except OSError as error:
            self.problem = disk.cannot_write(self._folder, error)

    def close(self) -> None:
        """Write what waits and close the files."""
        self.flush()
        for file in self._files.values():
            file.close()
        self._files.clear()


def _open(path: Path) -> IO[bytes]:
    """Open a view for adding; a line that a dead run left half is ended first."""
    file = disk.open_private(path, "ab+", buffering=0)
    if file.seek(0, os.SEEK_END) > 0:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")
    return file
