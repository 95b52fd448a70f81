"""Settle what is in doubt by a gateway's log: from evidence only, else it stays in doubt.

A log that keeps the key we sent is asked for it: a charge under an item's key is the item's. For
nothing under its key to mean that it is free, the item must be older than the horizon, because
rows are written at a request's end, the log must reach back to its send, and it must show the
charged calls of ours within the hour under their keys: a gateway that logs nothing, or drops the
keys, is silent about all of them. Any other log is settled by difference.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from imagen_async.errors import Charge
from imagen_async.policy.difference import settle_by_difference
from imagen_async.policy.evidence import HORIZON, against_free, is_old, is_reached, standing
from imagen_async.policy.settlement import Decision, LogRow, RowKind, Rule, Settlement

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from imagen_async.policy.settlement import CallLog, Doubt, KnownCall, Send

DRIFT: Final = 600.0
"""Seconds that a row may lie off its call: as long as an answer takes, should its end be told."""


def settle(
    doubts: Sequence[Doubt],
    calls: Collection[KnownCall],
    log: CallLog,
    *,
    horizon: float = HORIZON,
) -> Settlement:
    """Return what a log says of the items in doubt.

    Args:
        doubts: The items.
        calls: All other sends of the same key that we know of, from an hour before the first
            doubt to an hour after the last: they show that the log works, and their rows are
            nobody else's. A log that is asked by keys needs only those whose keys were asked.
        log: What was read.
        horizon: Seconds after a send from which a missing row means that nothing was charged.
    """
    if log.keys is None:
        return settle_by_difference(doubts, calls, log, horizon)
    rows: dict[str | None, list[LogRow]] = defaultdict(list)
    for row in log.rows:
        rows[row.client_id].append(row)
    controls = [call for call in calls if call.charge is Charge.YES and call.key in log.keys]
    shown = sorted(call.send.at for call in controls if call.key in rows)
    missing = sorted(
        call.send.at
        for call in controls
        if is_old(call.send, log, horizon)
        and is_reached(call.send, log)
        and not _shows(rows.get(call.key, ()), call.send, log)
    )
    decisions = []
    least = most = 0
    for doubt in doubts:
        rule, within = Rule.UNKEPT, list[LogRow]()
        if doubt.key in log.keys:
            silence = against_free(doubt, log, horizon, shown, missing)
            rule, within = _decide(rows.get(doubt.key, []), silence)
        decisions.append(Decision(id=doubt.id, rule=rule, rows=tuple(within)))
        charge, charges = decisions[-1].charge, len({row.id or row for row in within if row.costs})
        least += charges if charge is Charge.YES else 0
        most += (0, max(charges, len(doubt.sends)), charges)[int(charge)]
    return Settlement(decisions=tuple(decisions), least=least, most=most)


def _shows(rows: Sequence[LogRow], send: Send, log: CallLog) -> bool:
    """Return whether one of the rows lies where its send says: else a clock was set meanwhile."""
    low, high = send.at + log.skew[0] - DRIFT, send.until + log.skew[1] + DRIFT
    return any(row.start is None or low <= row.start <= high for row in rows)


def _decide(rows: list[LogRow], silence: Rule | None) -> tuple[Rule, list[LogRow]]:
    """Return what the rows under an item's key say of it, and which of them say it.

    Args:
        rows: All of them.
        silence: Why no charge among them would not mean that it is free; None if it would.
    """
    stand, loose = standing(rows)
    if loose:
        return Rule.REFUNDED, rows
    for kind, rule in ((RowKind.CHARGE, Rule.CHARGED), (RowKind.OPEN, Rule.OPEN)):
        if found := [row for row in stand if row.kind is kind]:
            return rule, found
    return silence or Rule.FREE, rows
