"""What a run came to: counts that move while it runs, and the report made of them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import attrs

from imagen_async.batch.journal import State
from imagen_async.errors import Charge

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imagen_async.batch.journal import Count

_UNKNOWN = (State.UNKNOWN, State.RECEIVED)
"""States that cost or may have cost, with no image yet."""


@attrs.frozen(kw_only=True)
class Report:
    """What a batch came to: the rows of this run's input, and the money of all its runs.

    Args:
        total: Rows of the input that were read: done, failed, unknown, dropped and pending.
        done: Rows with at least one image.
        failed: Rows that cost nothing and brought nothing; malformed ones are among them.
        unknown: Rows that were or may have been charged and are not done.
        received: Unknown rows that are paid for and whose images are still behind links.
        dropped: Unknown rows that ``on_unknown="drop"`` gave up.
        pending: Rows that were read and not sent, or are under way.
        invalid: Rows that are no request, or that may not be sent; counted as failed.
        skipped: Rows that earlier runs had settled.
        bought_before: New rows that ask for a prompt which was bought before with other fields,
            spaces or capitals.
        others: What the folder holds beside these rows: items of other inputs, or of rows that
            were not read.
        others_unknown: How many of those were or may have been charged and are not done.
        images: Image files that are here.
        attempts: HTTP exchanges begun.
        charged_maybe: Unknown and dropped rows that may have been charged.
        charged_yes: Unknown and dropped rows that were charged.
        resent: How often an item was sent again although it may have been charged.
        recounted: Failed items that this run sent again with a new count of sends.
        spent: Images that were or may have been charged.
        cost: Their price, if one was given, in its currency.
        presumed_free: Images that went out and were answered by a failure that counts as free;
            they were bought too if the gateway charges its failures.
        presumed_free_cost: Their price, if one was given.
        seconds: How long this run took.
        partial: Whether the input was not read to its end: there may be more items.
        stopped_by: What stopped the intake: ``quota``, ``authentication``, ``budget``,
            ``max_failures``, ``unreachable``, ``refused``, ``disk``,
            ``journal``, ``client``, or the reason given to ``stop``.
        problem: What stopped it, or went wrong with a view, as a sentence.
    """

    total: int
    done: int
    failed: int
    unknown: int
    received: int
    dropped: int
    pending: int
    invalid: int
    skipped: int
    bought_before: int
    others: int
    others_unknown: int
    images: int
    attempts: int
    charged_maybe: int
    charged_yes: int
    resent: int
    recounted: int
    spent: int
    cost: float | None
    presumed_free: int
    presumed_free_cost: float | None
    seconds: float
    partial: bool
    stopped_by: str | None
    problem: str | None

    @property
    def ok(self) -> bool:
        """Whether every row of the input is done, or was dropped on purpose."""
        return self.done + self.dropped == self.total and not self.partial

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return attrs.asdict(self)


class Known(TypedDict):
    """What a run knows of itself and its counts do not; see Report."""

    bought_before: int
    seconds: float
    partial: bool
    stopped_by: str | None
    problem: str | None


class Tally:
    """The counts of a run, from the journal's at its start and moved as items move.

    ``items`` are all of the folder, ``rows`` those that this run took up from its input.

    Args:
        counts: Of the journal.
    """

    __slots__ = (
        "attempts",
        "images",
        "invalid",
        "items",
        "presumed",
        "recounted",
        "resent",
        "rows",
        "spent",
    )

    def __init__(self, counts: Iterable[Count] = ()) -> None:
        self.items: Counter[tuple[State, Charge]] = Counter()
        self.rows: Counter[tuple[State, Charge]] = Counter()
        self.attempts: int = 0
        self.images: int = 0
        self.invalid: int = 0
        self.presumed: int = 0
        self.recounted: int = 0
        self.resent: int = 0
        self.spent: int = 0
        for count in counts:
            self.items[count.state, count.charge] += count.items
            self.attempts += count.attempts
            self.images += count.images
            self.resent += count.resends
            self.spent += count.spent
            self.presumed += count.presumed

    @property
    def at_risk(self) -> int:
        """Images that were, are or may be charged, those included that only count as free."""
        return self.spent + self.presumed

    def enter(self, at: tuple[State, Charge], *, known: bool, listed: bool) -> None:
        """Count an item that is taken up.

        Args:
            at: Where it stands.
            known: Whether the journal has it.
            listed: Whether a row of the input asks for it.
        """
        self.items[at] += not known
        self.rows[at] += listed

    def move(
        self, before: tuple[State, Charge], after: tuple[State, Charge], *, listed: bool
    ) -> None:
        """Count an item in another state."""
        for counts in (self.items, self.rows) if listed else (self.items,):
            counts[before] -= 1
            counts[after] += 1

    def report(
        self,
        passed: Counter[tuple[State, Charge]],
        price: float | None,
        **known: Unpack[Known],
    ) -> Report:
        """Return the counts as a report.

        Args:
            passed: Rows that earlier runs had settled.
            price: Of an image.
            **known: What the run knows beside its counts.
        """
        rows = self.rows + passed
        others = self.items - rows
        doubtful = (*_UNKNOWN, State.DROPPED)
        done, failed = _of(rows, State.DONE), _of(rows, State.FAILED) + self.invalid
        unknown, dropped = _of(rows, *_UNKNOWN), _of(rows, State.DROPPED)
        pending = _of(rows, State.NEW, State.SENDING)
        return Report(
            total=done + failed + unknown + dropped + pending,
            done=done,
            failed=failed,
            unknown=unknown,
            received=_of(rows, State.RECEIVED),
            dropped=dropped,
            pending=pending,
            invalid=self.invalid,
            skipped=passed.total(),
            others=others.total(),
            others_unknown=_of(others, *_UNKNOWN),
            images=self.images,
            attempts=self.attempts,
            charged_maybe=_of(rows, *doubtful, charge=Charge.MAYBE),
            charged_yes=_of(rows, *doubtful, charge=Charge.YES),
            resent=self.resent,
            recounted=self.recounted,
            spent=self.spent,
            cost=None if price is None else round(self.spent * price, 6),
            presumed_free=self.presumed,
            presumed_free_cost=None if price is None else round(self.presumed * price, 6),
            **known,
        )


def _of(counts: Counter[tuple[State, Charge]], *states: State, charge: Charge | None = None) -> int:
    """Return how many are in these states, with this charge if one is given."""
    return sum(
        number
        for (state, charged), number in counts.items()
        if state in states and charge in (None, charged)
    )
