"""When a log's silence means that nothing was charged, and which of its rows stand."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from imagen_async.policy.settlement import RowKind, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from imagen_async.policy.settlement import CallLog, Doubt, LogRow, Send

HORIZON: Final = 900.0
"""Seconds after a send from which a missing row means that nothing was charged."""
HOUR: Final = 3600.0
"""Seconds; how near a call that the log shows must be to one that it is silent about."""
ROUNDING: Final = 2.0
"""Seconds: the log's times are whole, and a row's start is the difference of two of them."""


def against_free(
    doubt: Doubt,
    log: CallLog,
    horizon: float,
    shown: Sequence[float],
    missing: Sequence[float] = (),
) -> Rule | None:
    """Return why an item without a row is not known to be free; None if it is.

    Args:
        doubt: The item.
        log: What was read.
        horizon: Seconds after a send from which a missing row means that nothing was charged.
        shown: When calls of ours went out that the log shows, in order; on our clock.
        missing: When charged calls of ours went out that it should show and does not, in order.
    """
    for send in doubt.sends:
        hour = send.at - HOUR, send.at + HOUR
        if not is_old(send, log, horizon):
            return Rule.YOUNG
        if not is_reached(send, log):
            return Rule.CUT
        if not is_any(shown, *hour) or is_any(missing, *hour):
            return Rule.SILENT
    return None


def is_any(times: Sequence[float], first: float, last: float) -> bool:
    """Return whether any of some times, which are in order, lies between two."""
    place = bisect_left(times, first)
    return place < len(times) and times[place] <= last


def is_old(send: Send, log: CallLog, horizon: float) -> bool:
    """Return whether a send's row would have been written by the time the log was read."""
    return log.read_at - send.until >= horizon


def is_reached(send: Send, log: CallLog) -> bool:
    """Return whether the log reaches back to a send."""
    return send.at + log.skew[0] - ROUNDING > log.whole_since


def standing(rows: Iterable[LogRow]) -> tuple[list[LogRow], list[LogRow]]:
    """Return the rows that stand, without charges given back whole, and refunds of nothing known.

    Args:
        rows: A log's; equal ones count once, unless they have no id to be told apart by.
    """
    rows = list(rows)
    nameless = [row for row in rows if row.id is None]
    rows = [*dict.fromkeys(row for row in rows if row.id is not None), *nameless]
    spent: dict[str, float] = defaultdict(float)
    given: dict[str, float] = defaultdict(float)
    for row in rows:
        if row.id is not None and row.kind in (RowKind.CHARGE, RowKind.REFUND):
            sums = given if row.kind is RowKind.REFUND else spent
            sums[row.id] += abs(row.amount or 0.0)
    whole = {id_ for id_, sum_ in given.items() if spent[id_] and math.isclose(sum_, spent[id_])}
    part = {id_ for id_, sum_ in given.items() if sum_ < spent[id_]} - whole
    stand = [row for row in rows if row.kind is not RowKind.REFUND and row.id not in whole]
    loose = [row for row in rows if row.kind is RowKind.REFUND and row.id not in whole | part]
    return stand, loose
