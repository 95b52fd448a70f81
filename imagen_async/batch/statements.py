"""An item's values as the statements that keep them, and a row as an item."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from imagen_async.batch import schema
from imagen_async.batch.records import Item, KeptAnswer, KeptError, RequestRow, decode, encode
from imagen_async.batch.states import State
from imagen_async.errors import CHARGES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imagen_async.session.record import Trace

Statement: TypeAlias = "tuple[str, tuple[Any, ...]]"


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
    values[2:5] = decode(columns[2], RequestRow), State(columns[3]), CHARGES[columns[4]]
    last = zip(columns[15:], (KeptError, KeptAnswer), strict=True)
    values[15:] = [None if text is None else decode(text, kind) for text, kind in last]
    return Item(*values)
