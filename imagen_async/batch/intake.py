"""From rows to work: which rows are settled, which are new, which an earlier run began."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import anyio.lowlevel
import attrs

from imagen_async.batch.entry import Desk, Entry, row_json
from imagen_async.batch.home import Book, row_of
from imagen_async.batch.identity import Census, body_digest
from imagen_async.batch.journal import Item, State, ids
from imagen_async.batch.source import Requests, Row, as_rows
from imagen_async.errors import Charge, ConfigurationError, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from imagen_async.wire.request import GenerationRequest

OnUnknown: TypeAlias = Literal["hold", "resend", "drop"]
BREATH = 64
"""Rows skipped before the loop gets a turn: about a millisecond."""


def _above_zero(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not value > 0:
        raise ConfigurationError(f"{attribute.name} must be a number above 0, not {value!r}.")


def _count(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(f"{attribute.name} must be a whole number, 1 or more.")


@attrs.frozen(kw_only=True)
class RunOptions:
    """How a batch goes about its rows.

    Args:
        ordered: Whether outcomes come in input order.
        on_unknown: What to do with items of earlier runs that may have been charged: ``hold``
            leaves and lists them, ``resend`` sends each once more under its old key, ``drop``
            gives them up.
        retry_failed: Whether items that failed in earlier runs, uncharged, are sent again.
        limit: How many rows of the input to take; None for all.
        price_per_image: In any currency.
        budget: The most that may be spent on this folder, in the same currency.
        max_failures: How many items may end without an image before the intake stops.
        emulator: Whether the endpoint is an emulator of the caller's, new at every run.
        gallery: Whether to write ``index.html`` at the end.

    Raises:
        ConfigurationError: If a value is out of range, or a budget has no price.
    """

    ordered: bool = False
    on_unknown: OnUnknown = "hold"
    retry_failed: bool = False
    limit: int | None = attrs.field(default=None, validator=attrs.validators.optional(_count))
    price_per_image: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(_above_zero)
    )
    budget: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(_above_zero)
    )
    max_failures: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(_count)
    )
    emulator: bool = False
    gallery: bool = True

    def __attrs_post_init__(self) -> None:
        if self.on_unknown not in ("hold", "resend", "drop"):
            raise ConfigurationError("on_unknown must be 'hold', 'resend' or 'drop'.")
        if self.budget is not None and self.price_per_image is None:
            raise ConfigurationError("A budget needs price_per_image, in the same currency.")

    def leaves(self, state: State | None) -> bool:
        """Return whether items in this state are not touched."""
        return {
            State.DONE: True,
            State.DROPPED: True,
            State.FAILED: not self.retry_failed,
            State.UNKNOWN: self.on_unknown != "resend",
        }.get(state or State.NEW, False)

    @property
    def allowance(self) -> float | None:
        """How many images the budget buys."""
        if self.budget is None or self.price_per_image is None:
            return None
        return self.budget / self.price_per_image + 1e-9


@attrs.frozen
class Seen:
    """A row of the input and what the journal says of it.

    Args:
        position: From 0.
        row: As it was read; with its error if it may not be sent.
        fate: Whether it is wrong, left alone, known and to be worked on, or new.
        state: Of its item, as the run began; None if the journal does not have it.
        id: Of its item.
        request: With the client's model.
    """

    position: int
    row: Row
    fate: Literal["invalid", "settled", "known", "new"]
    state: State | None = None
    id: bytes = b""
    request: GenerationRequest | None = None

    @property
    def charged(self) -> bool:
        """Whether the row says of itself that it was or may have been charged."""
        return self.row.prior is not None and self.row.prior.charge is not Charge.NO


async def sort_out(
    requests: Requests,
    book: Book,
    options: RunOptions,
    resolve: Callable[[GenerationRequest], GenerationRequest],
) -> AsyncIterator[Seen]:
    """Yield each row of an input with its fate, up to the limit.

    Args:
        requests: The input.
        book: What the journal says.
        options: Of the run.
        resolve: Fills in the client's model.
    """
    census, position = Census(), 0
    async for row in as_rows(requests):
        yield _seen(position, row, census, book, options, resolve)
        position += 1
        if position == options.limit:
            return


def _seen(
    position: int,
    row: Row,
    census: Census,
    book: Book,
    options: RunOptions,
    resolve: Callable[[GenerationRequest], GenerationRequest],
) -> Seen:
    if row.request is None or row.error is not None:
        return Seen(position, row, "invalid")
    request = resolve(row.request)
    try:
        identity = census.enter(body_digest(request))
    except InvalidRequestError as unfit:
        return Seen(position, attrs.evolve(row, error=unfit), "invalid")
    state = book.state(identity)
    if state is not None:
        fate: Literal["settled", "known"] = "settled" if options.leaves(state) else "known"
        return Seen(position, row, fate, state, identity, request)
    seen = Seen(position, row, "new", None, identity, request)
    if row.prior is not None and seen.charged and options.on_unknown != "resend":
        error = InvalidRequestError(
            f"line {row.line}: an earlier run may have paid for it; to send it again all the same, "
            "set on_unknown to resend.",
            charge=row.prior.charge,
            idempotency_key=row.prior.idempotency_key,
        )
        return attrs.evolve(seen, row=attrs.evolve(row, error=error), fate="invalid")
    return seen


class Intake:
    """Makes entries of the rows that are to be worked on.

    Args:
        desk: Of the run.
        book: What the journal said at its start.
        options: Of the run.
        resolve: Fills in the client's model.

    Attributes:
        exhausted: Whether the input was read to its end, or its limit.
    """

    def __init__(
        self,
        desk: Desk,
        book: Book,
        options: RunOptions,
        resolve: Callable[[GenerationRequest], GenerationRequest],
    ) -> None:
        self._desk = desk
        self._book = book
        self._options = options
        self._resolve = resolve
        self.exhausted = False

    async def work(self, requests: Requests) -> AsyncIterator[Entry | Seen]:
        """Yield an entry for each item to work on, and the rows that are wrong.

        Answers whose rows have left the input are downloaded at the end: they are paid for.
        """
        links = await self._desk.journal.call(lambda db: set(ids(db, (State.RECEIVED,))))
        async for seen in sort_out(requests, self._book, self._options, self._resolve):
            if seen.fate == "invalid":
                yield seen
            elif seen.fate == "settled":
                if seen.position % BREATH == 0:
                    await anyio.lowlevel.checkpoint()
            elif seen.request is not None:
                links.discard(seen.id)
                known = await self._desk.journal.find(seen.id) if seen.fate == "known" else None
                yield self._entry(seen, seen.request, known)
        self.exhausted = True
        for identity in sorted(links):
            item = await self._desk.journal.find(identity)
            if item is not None:
                name, request = row_of(item.row)
                yield Entry(desk=self._desk, item=item, request=request, name=name, known=True)

    def _entry(self, seen: Seen, request: GenerationRequest, known: Item | None) -> Entry:
        prior = seen.row.prior
        text = row_json(request, seen.row.id)
        if known is None:
            item = Item(
                seen.id,
                seen.position,
                text,
                charge=Charge.NO if prior is None else prior.charge,
                idempotency_key=None if prior is None else prior.idempotency_key,
            )
        else:
            item = attrs.evolve(known, position=seen.position, row=text)
        # A key that a gateway honours would bring the failure back.
        failed = item.state is State.FAILED
        if item.idempotency_key is None or failed:
            item = attrs.evolve(item, idempotency_key=str(uuid.uuid4()))
        return Entry(
            desk=self._desk,
            item=item,
            request=request,
            name=seen.row.id,
            known=known is not None,
            resend=item.charge is not Charge.NO and item.state is not State.RECEIVED,
        )
