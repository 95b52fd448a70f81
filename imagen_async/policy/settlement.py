"""What is settled and what it is settled by: our own calls, and a gateway's log of calls."""

from __future__ import annotations

import enum
import math
from typing import Final, Literal, TypeAlias

import attrs

from imagen_async.errors import Charge

LogName: TypeAlias = Literal["litellm", "aimlapi", "newapi"]
"""The kinds of logs that can be read."""


@attrs.frozen
class Send:
    """One time that a request's body went out, between two moments of our clock.

    Both are the same if the moment was noted. Of a process that was killed only the first is
    known, and the second is as much later as a connection may take: a charge that is looked for
    too early is taken for somebody else's, and its item for free.

    Args:
        at: Unix seconds; nothing had left before.
        until: Unix seconds; all had left by then, if anything did.
        request_id: The gateway's id, if an answer told one.
    """

    at: float
    until: float
    request_id: str | None = None


@attrs.frozen(kw_only=True)
class Doubt:
    """An item that may have been charged and brought nothing.

    Args:
        id: The item's id.
        key: The Idempotency-Key that each of its sends carried; None for none.
        sends: Every send that may have been charged, of earlier runs too.
        model: The model that was asked for; None for the gateway's own choice.
    """

    id: str
    key: str | None
    sends: tuple[Send, ...] = attrs.field(validator=attrs.validators.min_len(1))
    model: str | None = None


@attrs.frozen(kw_only=True)
class KnownCall:
    """A send of ours that is not to be settled.

    Args:
        send: When it went out, and the gateway's id of it.
        charge: What it cost: YES for images that came, NO for a refusal; MAYBE for an earlier
            send of an item that came in the end.
        key: Its Idempotency-Key.
        model: The model that was asked for.
    """

    send: Send
    charge: Charge = Charge.YES
    key: str | None = None
    model: str | None = None


class RowKind(enum.Enum):
    """What a row of the log says of money."""

    CHARGE = "charged"
    FREE = "free"
    OPEN = "running, or done without a price"
    REFUND = "given back"


@attrs.frozen(kw_only=True)
class LogRow:
    """One row of a gateway's log.

    Args:
        kind: What it says of money.
        id: The gateway's id of the request.
        client_id: The id that the caller sent along, if the log keeps it.
        start: When the request came in, in Unix seconds of the gateway's clock.
        end: When the row was written.
        model: The model's name there.
        amount: What was charged, in ``unit``.
        unit: Such as ``usd`` or ``quota``.
    """

    kind: RowKind
    id: str | None = None
    client_id: str | None = None
    start: float | None = None
    end: float | None = None
    model: str | None = None
    amount: float | None = None
    unit: str = ""

    @property
    def costs(self) -> bool:
        """Whether it is a charge, or may become one."""
        return self.kind in (RowKind.CHARGE, RowKind.OPEN)


@attrs.frozen(kw_only=True)
class CallLog:
    """What was read of a gateway's log.

    Args:
        rows: In any order; a row may come twice.
        read_at: When it was read, in Unix seconds of our clock.
        whole_since: The log holds every row written after this, in seconds of the gateway's
            clock: minus infinity if it is whole, infinity if it shows nothing.
        skew: The least and the most that the gateway's clock is ahead of ours, in seconds.
        keys: The keys of ours that were looked for and that such a log can keep; None for a log
            that keeps no id of ours.
    """

    rows: tuple[LogRow, ...]
    read_at: float
    whole_since: float = math.inf
    skew: tuple[float, float] = (0.0, 0.0)
    keys: frozenset[str] | None = None


class Rule(enum.Enum):
    """Why an item was settled, or was not; in words for the user."""

    CHARGED = "the log shows its charge"
    NEEDED = "a charge of its moment is no other call's of this batch"
    FREE = "the log shows no charge for it"
    OPEN = "the log shows it without a price"
    SHARED = "the log's charges may be for other calls of that moment"
    REFUNDED = "a refund in the log does not say which charge it is for"
    YOUNG = "it was sent too recently: rows appear late"
    CUT = "the log does not reach back to its send"
    SILENT = "the log shows no other call of ours within the hour"
    UNKEPT = "the log does not keep its key"
    OTHERS = "the batch was sent with other keys or headers too, and their log is another"
    BLOCKED = "the log cannot be trusted"


_CHARGES: Final = {Rule.CHARGED: Charge.YES, Rule.NEEDED: Charge.YES, Rule.FREE: Charge.NO}


@attrs.frozen(kw_only=True)
class Decision:
    """What became of an item in doubt.

    Args:
        id: The item's id.
        rule: Why.
        rows: The rows that it rests on: its charges, or those that may be.
    """

    id: str
    rule: Rule
    rows: tuple[LogRow, ...] = ()

    @property
    def charge(self) -> Charge:
        """NO is free, YES was charged, MAYBE stays in doubt."""
        return _CHARGES.get(self.rule, Charge.MAYBE)

    @property
    def request_id(self) -> str | None:
        """The gateway's id of the charge, if only one row can be it."""
        ids = {row.id for row in self.rows}
        return ids.pop() if self.charge is Charge.YES and len(ids) == 1 else None


@attrs.frozen(kw_only=True)
class Settlement:
    """What a log says of all items in doubt.

    Args:
        decisions: One for each item, in their order.
        groups: How many of the items that cannot be told apart were charged, in words.
        least: Charges of these items for certain, those of groups included.
        most: Charges that they may have caused.
        problem: Why the whole log settles nothing, one sentence; empty if it does not.
    """

    decisions: tuple[Decision, ...]
    groups: tuple[str, ...] = ()
    least: int = 0
    most: int = 0
    problem: str = ""
