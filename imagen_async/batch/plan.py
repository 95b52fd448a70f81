"""What a run would do, counted without sending anything."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import attrs

from imagen_async.batch.records import images_requested
from imagen_async.batch.states import State

if TYPE_CHECKING:
    from imagen_async.batch.intake import RowClassifier, RunOptions
    from imagen_async.batch.prompts import Requests


@attrs.frozen(kw_only=True)
class Plan:
    """What a run would do, by its input and the journal; nothing was sent.

    Args:
        rows: Rows of the input, up to the limit.
        to_send: Items that would be sent; ``resend`` of them may have been charged before.
        resend: See ``to_send``.
        bought_before: How many of ``to_send`` ask for a prompt that was bought before with other
            fields, spaces or capitals.
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
    bought_before: int
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
    classifier: RowClassifier,
    requests: Requests,
    options: RunOptions,
    requests_per_minute: float | None,
) -> Plan:
    """Count what a run would do with an input.

    Args:
        classifier: Tells which rows would be worked on.
        requests: The input, which is read to its end.
        options: What the run is told to do.
        requests_per_minute: The client's rate; None for no limit.
    """
    to_send = resend = images = downloads = invalid = cut = 0
    async for row in classifier.rows(requests):
        if (request := row.to_send) is None:
            invalid += 1
        elif row.state is State.RECEIVED:
            downloads += 1
        elif row.state is State.SENDING and options.leaves(State.UNKNOWN):
            cut += 1  # what a dead run left under way becomes unknown before anything else
        else:
            to_send += 1
            resend += row.state in (State.UNKNOWN, State.SENDING) or row.charged
            images += images_requested(request)
    left = Counter[State]()
    for (state, _), number in classifier.settled.items():
        left[state] += number
    price, rate = options.price_per_image, requests_per_minute
    return Plan(
        rows=to_send + downloads + invalid + cut + left.total(),
        to_send=to_send,
        resend=resend,
        bought_before=classifier.bought_before,
        downloads=downloads,
        done=left[State.DONE],
        failed=left[State.FAILED],
        unknown=left[State.UNKNOWN] + cut,
        dropped=left[State.DROPPED],
        invalid=invalid,
        images=images,
        cost=None if price is None else round(images * price, 6),
        seconds=None if rate is None else to_send * 60 / rate,
    )
