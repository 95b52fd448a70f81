"""From rows to work: which rows are settled, which are new, which an earlier run began."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import attrs

from imagen_async.batch.identity import DuplicateCounter, body_digest
from imagen_async.batch.prompts import Requests, Row, RowReader, check_input
from imagen_async.batch.recorder import ItemRecorder
from imagen_async.batch.records import Item, RequestRow
from imagen_async.batch.states import State
from imagen_async.errors import Charge, ConfigurationError, InvalidRequestError
from imagen_async.policy.config import count, positive
from imagen_async.session.config import new_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping

    from imagen_async.batch.defaults import Defaults
    from imagen_async.batch.recovery import KnownItems
    from imagen_async.batch.run_context import RunContext
    from imagen_async.batch.shards import Shard
    from imagen_async.wire.request import GenerationRequest

OnUnknown: TypeAlias = Literal["hold", "resend", "drop"]
BREATH = 64
"""Rows skipped before the loop gets a turn: about a millisecond."""


_COUNT = attrs.validators.optional(count)
_POSITIVE = attrs.validators.optional(positive)


@attrs.frozen(kw_only=True)
class RunOptions:
    """How a batch goes about its rows.

    Args:
        ordered: Whether outcomes come in input order.
        on_unknown: What to do with items of earlier runs that may have been charged: ``hold``
            leaves and lists them, ``resend`` sends each once more under its old key, ``drop``
            gives them up. Those whose links came are downloaded first, and are among them only
            if the links are dead.
        retry_failed: Whether items that failed in earlier runs, uncharged, are sent again.
        limit: How many rows of the input to take; None for all.
        defaults: Fields of a request, for rows that do not set them.
        new_options: Whether to go on although the defaults differ from those that the batch was
            begun with, which buys prompts again.
        price_per_image: In any currency.
        budget: The most that may be spent on this folder, in the same currency.
        max_failures: How many items may end without an image before the intake stops.
        give_up_after: Seconds without an answer other than a refusal until the intake stops; None
            for the usual limits.
        emulator: Whether the endpoint is an emulator of the caller's, new at every run.
        gallery: Whether to write ``index.html`` at the end.
        shard: Which part of the rows to take, and of the budget.

    Raises:
        ConfigurationError: If a value is out of range, or a budget has no price.
    """

    ordered: bool = False
    on_unknown: OnUnknown = "hold"
    retry_failed: bool = False
    limit: int | None = attrs.field(default=None, validator=_COUNT)
    defaults: Mapping[str, Any] = attrs.field(factory=dict)
    new_options: bool = False
    price_per_image: float | None = attrs.field(default=None, validator=_POSITIVE)
    budget: float | None = attrs.field(default=None, validator=_POSITIVE)
    max_failures: int | None = attrs.field(default=None, validator=_COUNT)
    give_up_after: float | None = attrs.field(default=None, validator=_POSITIVE)
    emulator: bool = False
    gallery: bool = True
    shard: Shard | None = None

    def __attrs_post_init__(self) -> None:
        if self.on_unknown not in ("hold", "resend", "drop"):
            raise ConfigurationError("on_unknown must be 'hold', 'resend' or 'drop'.")
        if self.budget is not None and self.price_per_image is None:
            raise ConfigurationError("A budget needs price_per_image, in the same currency.")
        if self.shard is not None and self.new_options:
            raise ConfigurationError(
                "A shard cannot go on with other options: its rows would be another shard's; "
                "leave new_options out, or choose another folder."
            )
        if self.shard is not None and self.limit is not None:
            raise ConfigurationError(
                "A shard takes its rows of the whole input; give a shorter input instead of limit."
            )

    def leaves(self, state: State) -> bool:
        """Return whether items in this state are not touched."""
        held = {
            State.DONE: True,
            State.DROPPED: True,
            State.FAILED: not self.retry_failed,
            State.UNKNOWN: self.on_unknown != "resend",
        }
        return held.get(state, False)

    @property
    def allowance(self) -> float | None:
        """How many images the budget buys; of a shard, its share."""
        if self.budget is None or self.price_per_image is None:
            return None
        images = self.budget / self.price_per_image + 1e-9
        return images if self.shard is None else self.shard.part(int(images))


@attrs.frozen
class InputRow:
    """A row that is to be worked on, or that is wrong.

    Args:
        position: Its place in the input, from 0.
        row: As it was read; with its error if it may not be sent.
        state: Where its item stood as the run began; None if the journal does not have it.
        id: Its item's, 16 bytes.
        request: With the run's defaults; None if the row is no request.
    """

    position: int
    row: Row
    state: State | None = None
    id: bytes = b""
    request: GenerationRequest | None = None

    @property
    def charged(self) -> bool:
        """Whether the row says of itself that it was or may have been charged."""
        return self.row.prior is not None and self.row.prior.charge is not Charge.NO


Task: TypeAlias = InputRow | bytes | None
"""A row, the id of an item whose answer is to be downloaded, or a turn for the loop."""


class RowClassifier:
    """Tells the rows of an input that are to be worked on from those that are settled.

    Args:
        known: What the journal said as the run began.
        options: Which states the run leaves alone, and how many rows it takes.
        defaults: What rows leave out, which is part of what they ask.

    Attributes:
        settled: How many rows were passed over, by the state and charge of their items.
        bought_before: How many new rows ask for a prompt that was bought in other words.
        exhausted: Whether the input was read to its end, or to its limit.
        links: Ids of the items that are paid for, wait behind links, and no row has asked for yet.
    """

    def __init__(self, known: KnownItems, options: RunOptions, defaults: Defaults) -> None:
        self.known = known
        self._options = options
        self._defaults = defaults
        self._duplicates = DuplicateCounter()
        self._shard = options.shard
        self._reader = RowReader()
        self._position = 0
        self._left = frozenset(state for state in State if options.leaves(state))
        self.settled: Counter[tuple[State, Charge]] = Counter()
        self.bought_before: int = 0
        self.exhausted: bool = False
        self.links: set[bytes] = set()

    def rows(self, requests: Requests) -> Iterable[Task] | AsyncIterable[Task]:
        """Yield the rows to work on and those that are wrong, in the order of the input.

        Answers whose rows have left the input come at the end, by their items' ids: they are paid
        for. The input is read as it is given, at once or asynchronously; None gives the loop a
        turn.

        Raises:
            ConfigurationError: If it is no iterable of prompts.
        """
        check_input(requests)
        if isinstance(requests, AsyncIterable):
            return self._later(requests)
        return self._each(requests)

    def _each(self, requests: Iterable[object]) -> Iterator[Task]:
        for value in requests:
            yield from self._next(value)
            if self._position == self._options.limit:
                break
        self.exhausted = True
        yield from sorted(self.links)

    async def _later(self, requests: AsyncIterable[object]) -> AsyncIterator[Task]:
        async for value in requests:
            for found in self._next(value):
                yield found
            if self._position == self._options.limit:
                break
        self.exhausted = True
        for identity in sorted(self.links):
            yield identity

    def _next(self, value: object) -> tuple[Task, ...]:
        found = self._classify(self._position, self._reader(value))
        self._position += 1
        if found is not None:
            return (found,)
        return () if self._position % BREATH else (None,)

    def _classify(self, position: int, row: Row) -> InputRow | None:
        request, shard = row.request, self._shard
        if request is None or row.error is not None:
            return self._wrong(position, row)
        try:
            digest = body_digest(request, self._defaults)
        except InvalidRequestError as unfit:
            return self._wrong(position, attrs.evolve(row, error=unfit))
        if shard is not None and not shard.holds(digest):
            return None
        identity = self._duplicates.enter(digest)
        known = self.known.find(identity)
        if known is not None and known[0] in self._left:
            self.settled[known] += 1
            return None
        if known is None and self.known.find(digest) is None:
            self.bought_before += self.known.has_bought(digest)
        state = None if known is None else known[0]
        self.links.discard(identity)
        found = InputRow(position, row, state, identity, self._defaults.fill(request))
        if state is None and found.charged and self._options.on_unknown != "resend":
            return attrs.evolve(found, row=attrs.evolve(row, error=_paid_before(row)))
        return found

    def _wrong(self, position: int, row: Row) -> InputRow | None:
        mine = self._shard is None or self._shard.holds_line(position)
        return InputRow(position, row) if mine else None


def _paid_before(row: Row) -> InvalidRequestError:
    return InvalidRequestError(
        f"line {row.line}: an earlier run may have paid for it; to send it again all the same, "
        "set on_unknown to resend (--on-unknown resend).",
        charge=Charge.NO if row.prior is None else row.prior.charge,
        idempotency_key=None if row.prior is None else row.prior.idempotency_key,
    )


async def recorder_of(context: RunContext, task: InputRow | bytes) -> ItemRecorder | None:
    """Return what follows an item; None if there is nothing to do for it.

    Args:
        context: What the run's items share.
        task: A row that can be sent, or the id of an item whose images are to be downloaded.
    """
    known: Item | None = None
    identity = task if isinstance(task, bytes) else task.id
    if isinstance(task, bytes) or task.state is not None:
        known = await context.journal.call(lambda view: view.find(identity))
    if isinstance(task, bytes) or task.request is None:
        if known is None:
            return None
        return ItemRecorder(
            context=context, item=known, index=known.position, known=True, listed=False
        )
    item = _item(task, task.request, known)
    charged = item.charge is not Charge.NO
    resend = charged and (item.state is not State.RECEIVED or context.on_unknown == "resend")
    return ItemRecorder(
        context=context,
        item=item,
        index=task.position,
        known=known is not None,
        resend=resend,
        recount=resend or item.state is State.FAILED,
    )


def _item(found: InputRow, request: GenerationRequest, known: Item | None) -> Item:
    # A list fed back after a run of an older input may lack them.
    columns = found.row.columns or (known.row.columns if known else {})
    row = RequestRow(request, found.row.id, columns)
    if known is not None:
        # A gateway that honours keys would answer a failure's key with that failure.
        key = None if known.state is State.FAILED else known.idempotency_key
        return attrs.evolve(known, row=row, idempotency_key=key or new_key())
    prior = found.row.prior
    charge, key = (prior.charge, prior.idempotency_key) if prior else (Charge.NO, None)
    key = key or new_key()
    return Item(found.id, found.position, row, charge=charge, idempotency_key=key)
