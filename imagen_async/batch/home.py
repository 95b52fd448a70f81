"""A run's folder: whether it is ours, what endpoint it belongs to, what a dead run left in it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from imagen_async.batch import schema, shelf, views
from imagen_async.batch.identity import IdSet
from imagen_async.batch.journal import Item, State, ids, items
from imagen_async.errors import Charge, ConfigurationError
from imagen_async.session import disk
from imagen_async.wire.request import GenerationRequest
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping
    from pathlib import Path

RUN = "run.json"
_OURS = (RUN, shelf.IMAGES, views.METADATA)


def claim(folder: Path) -> None:
    """Take a folder for a batch: one that holds a journal, an empty one, or a new one.

    Raises:
        ConfigurationError: If it holds something else, or cannot be made.
    """
    shown = printable(str(folder), 300)
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for path in made:
            disk.sync_folder(path.parent)
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigurationError(
            f"{shown} cannot hold a batch: {reason}; choose another folder."
        ) from None
    if schema.NAME in names or not names:
        return
    if names.intersection(_OURS):
        raise ConfigurationError(
            f"{shown} holds a batch without its {schema.NAME}, so what was paid for is not known; "
            "restore it, or choose another folder."
        )
    raise ConfigurationError(f"{shown} is not empty and holds no batch; choose another folder.")


def bind(folder: Path, endpoint: str) -> None:
    """Note which endpoint a run belongs to, or check that it is this one.

    Args:
        folder: Of the run, locked.
        endpoint: The base URL, or the word ``emulator``.

    Raises:
        ConfigurationError: If the run was begun with another one.
    """
    path = folder / RUN
    try:
        begun = json.loads(path.read_text("utf-8"))["base_url"]
    except FileNotFoundError:
        begun = None
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigurationError(
            f"{printable(str(path), 300)} cannot be read; restore it."
        ) from None
    if begun is None:
        views.write_whole(path, json.dumps({"version": 1, "base_url": endpoint}) + "\n")
    elif begun != endpoint:
        raise ConfigurationError(
            f"This batch was begun with {printable(str(begun), 300)} and cannot go on with "
            f"{printable(endpoint, 300)}; use the first, or choose another folder."
        )


class Book:
    """What a journal said of its items when the run began, in 8 bytes an item.

    Args:
        known: The ids in each state.
    """

    def __init__(self, known: Mapping[State, Iterable[bytes]] | None = None) -> None:
        sets = {state: IdSet(found) for state, found in (known or {}).items()}
        self._sets = tuple((state, found) for state, found in sets.items() if len(found))

    def state(self, identity: bytes) -> State | None:
        """Return the state of an item, or None if the journal did not have it."""
        for state, found in self._sets:
            if identity in found:
                return state
        return None

    def has_name(self, digits: str) -> bool:
        """Return whether an item's files are named by these 12 hexadecimal digits."""
        return any(found.has_name(digits) for _, found in self._sets)


def read_book(connection: sqlite3.Connection) -> Book:
    """Return what the journal says of its items."""
    # What a resume meets most comes first.
    order = (State.DONE, *(state for state in State if state is not State.DONE))
    return Book({state: ids(connection, (state,)) for state in order})


def recover(connection: sqlite3.Connection, folder: Path) -> tuple[Book, list[Item]]:
    """Settle what a dead run left under way: adopted if its images are all here, else unknown.

    Returns:
        What the journal then says of its items, and those that were settled here.

    Raises:
        ConfigurationError: If an image belongs to no item: the journal has lost commits.
        OSError: If the disk fails.
    """
    book = read_book(connection)
    found = shelf.survey(folder, book.has_name)
    if found.foreign is not None:
        raise ConfigurationError(
            f"{printable(str(found.foreign), 300)} belongs to no item of {schema.NAME}: the "
            "journal is older than its images, or the file is not ours; restore or move it."
        )
    cut = list(items(connection, (State.SENDING,)))
    for item in cut:
        _settle(connection, folder, item)
    shelf.sweep(found.parts)
    if not cut:
        return book, []
    settled = [Item(*connection.execute(schema.FIND, (item.id,)).fetchone()) for item in cut]
    return read_book(connection), settled


def _settle(connection: sqlite3.Connection, folder: Path, item: Item) -> None:
    images, complete = shelf.rescue(folder, item.id, row_of(item.row)[1])
    before = json.loads(item.answer) if item.answer else {}
    names = {image["file_name"] for image in images}
    older = [each for each in before.get("images", ()) if each.get("file_name") not in names]
    answer = json.dumps({**before, "images": [*images, *older]}) if images else None
    state = State.DONE if complete else State.UNKNOWN
    charge = Charge.YES if images else max(item.charge, Charge.MAYBE)
    connection.execute(
        schema.SETTLED,
        (
            item.id,
            item.position,
            item.row,
            str(state),
            int(charge),
            item.sends,
            0,
            0,
            len(images) + len(older) if images else item.images,
            None,
            answer,
        ),
    )


def row_of(text: str) -> tuple[str | None, GenerationRequest]:
    """Return the user's id and the request of a row that the journal keeps."""
    fields = json.loads(text)
    name = fields.pop("id", None)
    return name, GenerationRequest(**fields)
