"""What a run would do, counted without sending anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterable
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel
import attrs

from imagen_async.batch import recovery, schema
from imagen_async.batch.accounting import Tally
from imagen_async.batch.intake import InputRow
from imagen_async.batch.journal import SqliteJournal
from imagen_async.batch.records import images_requested
from imagen_async.batch.recovery import KnownItems
from imagen_async.batch.states import State

if TYPE_CHECKING:
    from pathlib import Path

    from imagen_async.batch.intake import RowClassifier, RunOptions, Task
    from imagen_async.batch.prompts import Requests

WRONG_SHOWN: Final = 5
"""Rows that are wrong and told of in a plan; all are counted."""


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
        wrong: What is wrong with the first of those, as sentences.
        images: Images that ``to_send`` buys, at least.
        cost: Their price, if one was given, in its currency.
        seconds: The least time that the rate allows for them; None without a rate.
        spent: What all runs on the folder spent or may have spent, at that price.
        covered: How many of ``to_send`` the budget has room for; None without a budget.
        budget_needed: The least budget that has room for all of them; None without a price.
        columns: The names of the user's own columns in rows to send, which are not sent.
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
    wrong: tuple[str, ...]
    images: int
    cost: float | None
    seconds: float | None
    spent: float | None
    covered: int | None
    budget_needed: float | None
    columns: tuple[str, ...] = ()


@attrs.define
class _Work:
    """What a run would work on, counted row by row."""

    options: RunOptions
    at_risk: float
    to_send: int = 0
    resend: int = 0
    images: int = 0
    covered: int = 0
    downloads: int = 0
    cut: int = 0
    invalid: int = 0
    wrong: list[str] = attrs.field(factory=list)
    columns: dict[str, None] = attrs.field(factory=dict)

    def add(self, seen: Task) -> None:
        """Count a row."""
        if not isinstance(seen, InputRow):
            return
        if seen.request is None or seen.row.error is not None:
            self.invalid += 1
            if len(self.wrong) < WRONG_SHOWN and seen.row.error is not None:
                self.wrong.append(seen.row.error.message)
        elif seen.state is State.RECEIVED:
            self.downloads += 1
        elif seen.state is State.SENDING and self.options.leaves(State.UNKNOWN):
            self.cut += 1  # what a dead run left under way becomes unknown before anything else
        else:
            self.resend += seen.state in (State.UNKNOWN, State.SENDING) or seen.charged
            self.images += images_requested(seen.request)
            allowance = self.options.allowance
            self.covered += allowance is None or self.at_risk + self.images <= allowance
            self.to_send += 1
            self.columns |= dict.fromkeys(seen.row.columns)


async def known_items(folder: Path, terms: recovery.Terms) -> tuple[KnownItems, Tally]:
    """Return what a folder's journal knows, and what it counts; nothing without one.

    Raises:
        ConfigurationError: If the journal cannot be used, another process has it, or the batch
            may not go on as it is.
    """
    if not await anyio.Path(folder / schema.NAME).exists():
        return KnownItems(), Tally()
    journal = SqliteJournal(folder)
    await journal.open(begin=False)
    try:
        await journal.call(partial(recovery.check, folder=folder, terms=terms))
        groups = await journal.call(lambda view: view.known())
        return KnownItems(groups), Tally(count for count, _ in groups)
    finally:
        await journal.aclose()


async def make_plan(
    classifier: RowClassifier,
    requests: Requests,
    options: RunOptions,
    requests_per_minute: float | None,
    tally: Tally,
) -> Plan:
    """Count what a run would do with an input.

    Args:
        classifier: Tells which rows would be worked on.
        requests: The input, which is read to its end.
        options: What the run is told to do.
        requests_per_minute: The client's rate; None for no limit.
        tally: What the folder's journal counts.
    """
    work = _Work(options, tally.at_risk(options.price_per_image))
    rows = classifier.rows(requests)
    if isinstance(rows, AsyncIterable):
        async for row in rows:
            work.add(row)
    else:
        for row in rows:
            work.add(row)
            if row is None:
                await anyio.lowlevel.checkpoint()
    left = Counter[State]()
    for (state, _), number in classifier.settled.items():
        left[state] += number
    return Plan(
        rows=work.to_send + work.downloads + work.invalid + work.cut + left.total(),
        to_send=work.to_send,
        resend=work.resend,
        bought_before=classifier.bought_before,
        downloads=work.downloads,
        done=left[State.DONE],
        failed=left[State.FAILED],
        unknown=left[State.UNKNOWN] + work.cut,
        dropped=left[State.DROPPED],
        invalid=work.invalid,
        wrong=tuple(work.wrong),
        images=work.images,
        seconds=None if requests_per_minute is None else work.to_send * 60 / requests_per_minute,
        cost=_price_of(work.images, options.price_per_image),
        spent=tally.money(options.price_per_image),
        covered=None if options.allowance is None else work.covered,
        budget_needed=_price_of(work.at_risk + work.images, options.price_per_image),
        columns=tuple(work.columns),
    )


def _price_of(images: float, price: float | None) -> float | None:
    return None if price is None else round(images * price, 6)
