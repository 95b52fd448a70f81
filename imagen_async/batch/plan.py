"""What a run would do, counted without sending anything."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import attrs

from imagen_async.batch.entry import ordered
from imagen_async.batch.journal import State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from imagen_async.batch.intake import RunOptions, Seen


@attrs.frozen(kw_only=True)
class Plan:
    """What a run would do, by its input and the journal; nothing was sent.

    Args:
        rows: Rows of the input, up to the limit.
        to_send: Items that would be sent; ``resend`` of them may have been charged before.
        resend: See ``to_send``.
        downloads: Items whose paid images would be downloaded.
        done: Rows that are done.
        failed: Rows that failed, uncharged, and are left alone.
        unknown: Rows that may have been charged and are left alone.
        dropped: Rows that were given up.
        invalid: Rows that are no request, or that may not be sent.
        images: Images that ``to_send`` buys, at least.
        cost: Their price, if one was given, in its currency.
        seconds: The least time that the rate allows for them; None without a rate.
    """

    rows: int
    to_send: int
    resend: int
    downloads: int
    done: int
    failed: int
    unknown: int
    dropped: int
    invalid: int
    images: int
    cost: float | None
    seconds: float | None


async def make_plan(
    rows: AsyncIterator[Seen], options: RunOptions, requests_per_minute: float | None
) -> Plan:
    """Count what a run would do with these rows.

    Args:
        rows: All rows of the input with their fates.
        options: Of the run.
        requests_per_minute: The client's rate.
    """
    fates: Counter[str] = Counter()
    left: Counter[State | None] = Counter()
    to_send = resend = images = 0
    async for seen in rows:
        fates[seen.fate] += 1
        if seen.fate == "settled":
            left[seen.state] += 1
        elif seen.request is not None and seen.fate != "invalid":
            if seen.state is State.RECEIVED:
                fates["download"] += 1
                continue
            # A dead run's sending becomes unknown before anything else is done.
            if seen.state is State.SENDING and options.leaves(State.UNKNOWN):
                left[State.UNKNOWN] += 1
                continue
            to_send += 1
            resend += seen.state in (State.UNKNOWN, State.SENDING) or seen.charged
            images += ordered(seen.request)
    price, rate = options.price_per_image, requests_per_minute
    return Plan(
        rows=fates.total() - fates["download"],
        to_send=to_send,
        resend=resend,
        downloads=fates["download"],
        done=left[State.DONE],
        failed=left[State.FAILED],
        unknown=left[State.UNKNOWN],
        dropped=left[State.DROPPED],
        invalid=fates["invalid"],
        images=images,
        cost=None if price is None else round(images * price, 6),
        seconds=None if rate is None else to_send * 60 / rate,
    )
