"""The lists beside the journal, for people and programs: what is here, failed, or unsure.

They are views: lines are added as items settle, and the journal makes them anew at the end of
each run. Rows of ``failed.jsonl`` and ``unknown.jsonl`` can be an input again. Like the journal
they are for their owner alone: prompts are in them. Images are what is shared, as the umask says.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import IO, TYPE_CHECKING, Any

import attrs

from imagen_async.batch import schema
from imagen_async.batch.item_files import is_cut
from imagen_async.batch.journal import Item, State, items
from imagen_async.errors import Charge
from imagen_async.storage import disk

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator
    from pathlib import Path

METADATA = "metadata.jsonl"
FAILED = "failed.jsonl"
UNKNOWN = "unknown.jsonl"
REPORT = "report.json"
_PRETTY = json.JSONEncoder(ensure_ascii=False, separators=(", ", ": "))
_ASCII = json.JSONEncoder(separators=(", ", ": "))
_NO_ANSWER = {"status": None, "code": None, "request_id": None}
_LOST = {
    "type": "OutcomeUnknownError",
    "message": "The process ended while the request was under way, or an attempt may have cost.",
    **_NO_ANSWER,
}
_WAITING = {
    "type": "DownloadError",
    "message": "The images are paid for and not downloaded yet; the next run fetches them.",
    **_NO_ANSWER,
}

_DOUBTFUL = (State.UNKNOWN, State.RECEIVED, State.DROPPED)


def line(row: dict[str, Any]) -> bytes:
    """Return a row as a line of UTF-8 JSON; a lone surrogate is escaped."""
    try:
        return _PRETTY.encode(row).encode() + b"\n"
    except UnicodeEncodeError:
        return _ASCII.encode(row).encode() + b"\n"


@attrs.frozen
class Listed:
    """An item as the lists show it.

    Args:
        asked: The row: the user's id and the request.
        state: Where it stands.
        charge: The worst over all its attempts.
        idempotency_key: What its last attempts carried.
        error: What its last error told.
        answer: What came.
    """

    asked: dict[str, Any]
    state: State
    charge: Charge
    idempotency_key: str | None
    error: dict[str, Any] | None
    answer: dict[str, Any]


def listed(item: Item) -> Listed:
    """Return an item of the journal as the lists show it."""
    return Listed(
        json.loads(item.row),
        item.state,
        item.charge,
        item.idempotency_key,
        json.loads(item.error) if item.error else None,
        json.loads(item.answer) if item.answer else {},
    )


def rows(item: Listed) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of an item, each with the name of its view."""
    asked, answer = item.asked, item.answer
    images = [each for each in answer.get("images", ()) if each.get("file_name") is not None]
    for image in images:
        if not is_cut(image["file_name"]):
            yield METADATA, _image_row(asked, answer, image)
    if item.state is State.FAILED:
        yield FAILED, {**asked, "error": _error(item)}
    elif item.state in _DOUBTFUL:
        row = {**asked, "error": _error(item)}
        if images:
            row["files"] = [image["file_name"] for image in images]
        if item.state is State.DROPPED:
            row["dropped"] = True
        yield UNKNOWN, row


def _image_row(
    asked: dict[str, Any], answer: dict[str, Any], image: dict[str, Any]
) -> dict[str, Any]:
    """Return one row of a Hugging Face imagefolder: every row has every column."""
    return {
        "file_name": image["file_name"],
        "id": asked.get("id"),
        "prompt": asked["prompt"],
        "model": asked.get("model"),
        "aspect_ratio": asked.get("aspect_ratio"),
        "width": image.get("width"),
        "height": image.get("height"),
        "media_type": image.get("media_type"),
        "bytes": image.get("bytes"),
        "sha256": image.get("sha256"),
        "request_id": answer.get("request_id"),
        "created": answer.get("created"),
    }


def _error(item: Listed) -> dict[str, Any]:
    told = item.error or (_WAITING if item.state is State.RECEIVED else _LOST)
    key = told.get("idempotency_key") or item.idempotency_key
    return {**told, "charge": str(item.charge), "idempotency_key": key}


def invalid(text: str) -> tuple[str, dict[str, Any]]:
    """Return the view and the row of an input row that was not sent; it may have cost before."""
    row: dict[str, Any] = json.loads(text)
    return FAILED if row["error"]["charge"] == str(Charge.NO) else UNKNOWN, row


def rewrite(connection: sqlite3.Connection, folder: Path) -> None:
    """Make the views anew from the journal, each replaced in one step.

    Raises:
        OSError: If the disk does not take them; the old ones stay.
    """
    names = (METADATA, FAILED, UNKNOWN)
    states = (State.DONE, State.FAILED, *_DOUBTFUL)
    parts = {name: folder / f".{name}{disk.PART}" for name in names}
    files: dict[str, IO[bytes]] = {}
    try:
        for name, part in parts.items():
            files[name] = disk.open_private(part, "wb")
        for item in items(connection, states):
            for name, row in rows(listed(item)):
                files[name].write(line(row))
        for (text,) in connection.execute(schema.ALL_INVALID):
            name, row = invalid(text)
            files[name].write(line(row))
        for file in files.values():
            file.close()
        for name, part in parts.items():
            part.replace(folder / name)
    finally:
        for file in files.values():
            file.close()
        for part in parts.values():
            disk.remove(part)


def write_whole(path: Path, text: str) -> None:
    """Replace a small file in one step, durably.

    Raises:
        OSError: If the disk does not take it; the old one stays.
    """
    part = path.with_name(f".{path.name}{disk.PART}")
    try:
        with disk.open_private(part, "wb") as file:
            file.write(text.encode())
            file.flush()
            disk.sync(file.fileno())
        part.replace(path)
        disk.sync_folder(path.parent)
    finally:
        disk.remove(part)


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

    def add(self, found: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Add rows."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self.flush)
        for name, row in found:
            self._waiting.setdefault(name, []).append(line(row))

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
