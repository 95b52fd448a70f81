"""What is counted: a run's items by state and charge, the images they cost, each item's sends."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, TypedDict, Unpack

from imagen_async.batch.records import images_requested
from imagen_async.batch.report import Report
from imagen_async.batch.states import State
from imagen_async.errors import Charge

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imagen_async.batch.records import Count, Item
    from imagen_async.wire.cost import Cost

UNIT: Final = 1e-10
"""US dollars: what costs that gateways tell are counted in; xAI tells no larger unit."""
_MOST: Final = 10**4
"""US dollars of one call: who tells more means another unit, and the journal's sum has an end."""
_UNKNOWN = (State.UNKNOWN, State.RECEIVED)
"""States that cost or may have cost, with no image yet."""


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
        counts: What the journal counts, over all earlier runs.
    """

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
        self.cost: int = 0
        self.cost_images: int = 0
        for count in counts:
            self.items[count.state, count.charge] += count.items
            self.attempts += count.attempts
            self.images += count.images
            self.resent += count.resends
            self.spent += count.spent
            self.presumed += count.presumed
            self.cost += count.cost
            self.cost_images += count.cost_images

    def at_risk(self, price: float | None) -> float:
        """Return how many images of a price were, are or may be charged.

        Those that only count as free are among them; those whose cost the gateway told weigh as
        much as it told.
        """
        images = self.spent + self.presumed
        if price is None:
            return images
        return images - self.cost_images + self.cost * UNIT / price

    def money(self, price: float | None) -> float | None:
        """Return what was spent: what the gateway told, and else by a price, if there is one."""
        if price is None:
            return round(self.cost * UNIT, 10) if self.cost_images else None
        return round(self.cost * UNIT + max(0, self.spent - self.cost_images) * price, 6)

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
            cost=self.money(price),
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


class ItemAccount:
    """What one item under way costs, told to the run's tally as it happens.

    Args:
        tally: What the run counts, all its items together.
        item: As it is taken up.
        known: Whether the journal has it.
        listed: Whether a row of the input asks for it.
        recount: Whether the count of its sends begins anew.

    Attributes:
        at_stake: Images that the next attempt may buy, or the one under way may have bought.
    """

    __slots__ = (
        *("_at", "_cost_before", "_counted", "_counts", "at_stake", "images", "sends", "tally"),
    )

    def __init__(
        self, tally: Tally, item: Item, *, known: bool, listed: bool, recount: bool
    ) -> None:
        self.tally: Tally = tally
        self.images: int = images_requested(item.row.request)
        self.at_stake: int = self.images
        self.sends: int = 0 if recount else item.sends
        # How many images of it are in what is spent, now or once the next attempt is sent.
        self._counted = max(self.images, item.spent if known else 0)
        self._cost_before = (item.cost, item.cost_images)
        self._counts = (tally.items, tally.rows) if listed else (tally.items,)
        self._at = (item.state, item.charge) if known else (State.NEW, Charge.NO)
        tally.items[self._at] += not known
        tally.rows[self._at] += listed

    def sent(self, item: Item) -> None:
        """Count an attempt as charged."""
        self._cost_before = (item.cost, item.cost_images)
        self.sends += 1
        self.tally.spent += self.at_stake

    def freed(self, sends: int) -> int:
        """Take the attempt under way back as free.

        Args:
            sends: How often the body went out, by what is known now.

        Returns:
            How many images are only presumed to be free: only the table of verdicts says so.
        """
        presumed = self.at_stake if sends >= self.sends else 0
        self.sends = sends
        self.tally.spent -= self.at_stake
        self.tally.presumed += presumed
        return presumed

    def came(self, images: int) -> int:
        """Count an answer's images; return how many came beyond those that were counted."""
        self.at_stake = self.images  # the answer is of all that was sent under its key
        excess = max(0, images - self._counted)
        self._counted += excess
        self.tally.spent += excess
        return excess

    def told(self, item: Item, cost: Cost | None, images: int) -> None:
        """Count what the gateway says that an answer cost; its last word counts.

        Args:
            item: Counted in place.
            cost: None leaves what was told before.
            images: How many came.
        """
        if cost is None or cost.amount > _MOST:
            return
        before, before_images = item.cost, item.cost_images
        item.cost = self._cost_before[0] + round(cost.amount * 10**10)
        item.cost_images = self._cost_before[1] + max(self.images, images)
        self.tally.cost += item.cost - before
        self.tally.cost_images += item.cost_images - before_images

    def moved(self, item: Item) -> None:
        """Count the item where it stands now."""
        now = (item.state, item.charge)
        for counts in self._counts:
            counts[self._at] -= 1
            counts[now] += 1
        self._at = now
