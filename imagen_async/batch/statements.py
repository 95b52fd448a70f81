"""An item's values as the statements that keep them, and a row as an item."""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import attrs

from imagen_async.batch import schema
from imagen_async.batch.records import Item, KeptAnswer, KeptError, RequestRow, decode, encode
from imagen_async.batch.states import State
from imagen_async.errors import Charge

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from imagen_async.session.record import Trace

Statement: TypeAlias = "tuple[str, tuple[Any, ...]]"
_ROWS: Final = 32
"""Rows of one statement: 416 values, and SQLite may take no more than 999."""


@attrs.frozen
class Writer:
    """Gathers statements for one transaction, and runs those that are alike as one of many rows.

    At every statement SQLite lets another thread have the interpreter, and to get it back from a
    busy event loop costs more than the row does.

    Args:
        connection: Of the journal, in its thread.
    """

    connection: sqlite3.Connection
    _rows: defaultdict[str, list[tuple[Any, ...]]] = attrs.field(
        init=False, factory=lambda: defaultdict(list)
    )
    _items: set[bytes | None] = attrs.field(init=False, factory=set)

    def add(self, item: bytes | None, work: Iterable[Statement]) -> None:
        """Take the statements of one step; the steps of one item keep their order."""
        if item is not None and item in self._items:
            self._flush()
        self._items.add(item)
        for statement, values in work:
            self._rows[statement].append(values)

    def commit(self) -> None:
        """Write all that was taken and end the transaction."""
        self._flush()
        if self.connection.in_transaction:
            self.connection.execute("COMMIT")

    def _flush(self) -> None:
        if self._rows and not self.connection.in_transaction:
            self.connection.execute("BEGIN IMMEDIATE")
        for statement, rows in self._rows.items():
            most = _ROWS if "INSERT" in statement else 1
            for at in range(0, len(rows), most):
                part = rows[at : at + most]
                self.connection.execute(_many(statement, len(part)), [*chain.from_iterable(part)])
        self._rows.clear()
        self._items.clear()


@cache
def _many(statement: str, rows: int) -> str:
    """Return a statement that inserts one row as one that inserts several."""
    return re.sub(
        r"(?<=VALUES )\([^()]*\)", lambda found: ", ".join([found[0]] * rows), statement, count=1
    )


def sending(item: Item, images: int, resends: int) -> Statement:
    """Return what keeps that an attempt is about to be sent."""
    row, charge = item.row.json, int(item.charge)
    key = item.idempotency_key
    place = (item.id, item.position, row, charge, item.sends)
    return schema.SENDING, (*place, images, resends, key, item.sent_at)


def returned(item: Item, images: int, presumed: int) -> Statement:
    """Return what keeps that the attempt under way was free."""
    charge = int(item.charge)
    return schema.RETURNED, (charge, charge, item.sends, images, presumed, item.id)


def received(item: Item, excess: int) -> Statement:
    """Return what keeps a paid answer whose images are elsewhere yet."""
    cost = (item.cost, item.cost_images)
    return schema.RECEIVED, (excess, *cost, encode(item.answer), item.id)


def settled(item: Item, excess: int = 0, presumed: int = 0) -> Statement:
    """Return what keeps how an item stands."""
    values = (
        item.id,
        item.position,
        item.row.json,
        str(item.state),
        int(item.charge),
        item.sends,
        excess,
        presumed,
        item.images,
        item.cost,
        item.cost_images,
        None if item.error is None else encode(item.error),
        None if item.answer is None else encode(item.answer),
    )
    return schema.SETTLED, values


def cleared(item: Item, presumed: int) -> Statement:
    """Return what keeps a charge that is lower than it was thought."""
    charge, error = int(item.charge), None if item.error is None else encode(item.error)
    values = (str(item.state), charge, item.sends, charge, presumed, error, item.id)
    return schema.CLEARED, values


def sent(item: Item, traces: Iterable[Trace]) -> list[Statement]:
    """Return what keeps each time that a body went out."""
    return [
        (
            schema.SEND,
            (item.id, each.at, each.until, int(each.charge), each.status, each.request_id),
        )
        for each in traces
    ]


def item_of(columns: tuple[Any, ...]) -> Item:
    """Return the item that a row of the table is."""
    values: list[Any] = [*columns]
    values[2:5] = decode(columns[2], RequestRow), State(columns[3]), Charge(columns[4])
    last = zip(columns[15:], (KeptError, KeptAnswer), strict=True)
    values[15:] = [None if text is None else decode(text, kind) for text, kind in last]
    return Item(*values)
