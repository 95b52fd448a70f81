"""Settle by what a log shows beyond our answered calls, where it keeps no key of ours.

The rows that are not the answered calls' are the charges that nobody received. Each must be one
of our sends, and is matched by time::

    sends in doubt   |--a--|   |--b--|                |--e--|     when it may have come in
                         |---c---|     |---d---|
    rows left over     1         2 3                              when the log says it came in

    a, b and c are one part with three rows: all three were charged. With row 2 alone, "1 of these
    2 were charged" of b and c. d and e have no row within reach: free.

What must hold, or nothing is settled at all: each answered call of ours has its row, where its
time says; no two calls have one id; and each row of the batch's time is a call of ours, or else
somebody uses our key. Whoever a row may belong to, an item that has one within reach is never
called free. A row of somebody else that alone lies where a send in doubt was free looks like its
charge, and no rule about times can tell: which is why such a charge is told as what it is.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Final

import attrs

from imagen_async.errors import Charge
from imagen_async.policy.evidence import (
    HORIZON,
    HOUR,
    ROUNDING,
    against_free,
    is_any,
    is_old,
    is_reached,
    standing,
)
from imagen_async.policy.settlement import Decision, RowKind, Rule, Settlement
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from imagen_async.policy.settlement import CallLog, Doubt, KnownCall, LogRow, Send

STRAGGLING: Final = 10.0
"""Seconds that a row of our own may be off where most are not; with more, times are no evidence."""
MANY: Final = 20
"""Answered calls whose rows show where the clocks stand, better than the clocks told."""
EARLIER: Final = 0.5
LATER: Final = 1.0
"""Seconds before and after all that they show in which a row may lie, too."""
_OTHER: Final = -1
CROWD: Final = 2000
"""Sends that are told apart where their times touch; of more it is not even tried."""


class _UntrustedLogError(Exception):
    """Why a log settles nothing; the text is the end of a sentence."""


@attrs.frozen
class _Claim:
    """A send that may have caused the rows from ``first`` up to, not including, ``end``.

    Args:
        first: The first of the rows left over.
        end: The one after the last.
        owner: The item's place; ``_OTHER`` for a send that is not to be settled.
    """

    first: int
    end: int
    owner: int


def settle_by_difference(
    doubts: Sequence[Doubt], calls: Iterable[KnownCall], log: CallLog, horizon: float
) -> Settlement:
    """Return what a log says of the items in doubt; see ``settle``."""
    sends = [(owner, send) for owner, doubt in enumerate(doubts) for send in doubt.sends]
    times = sorted(send.at for _, send in sends)
    calls = [call for call in calls if is_any(times, call.send.at - HOUR, call.send.at + HOUR)]
    stand, loose = standing(log.rows)
    # A request may have rows of its failures inside the gateway, too; its charge says more.
    rows = sorted(log.rows, key=lambda row: row.costs)
    named = {row.id: row for row in rows if row.kind is not RowKind.REFUND}
    named.pop(None, None)
    comparison = _Comparison(doubts, sends, calls, log, horizon, named)
    try:
        window = comparison.window()
        left = comparison.left_over([row for row in stand if row.costs], *window)
        parts = list(_parts(comparison.claims(left, *window), left))
    except _UntrustedLogError as error:
        decisions = [Decision(id=doubt.id, rule=Rule.BLOCKED) for doubt in doubts]
        problem = f"The log settles nothing: {error}."
        return Settlement(decisions=tuple(decisions), most=len(sends), problem=problem)
    return comparison.decide(parts, left, loose)


@attrs.frozen
class _Comparison:
    """What we know of our calls, beside what a log shows.

    Args:
        doubts: The items in doubt.
        sends: Theirs, each with its item's place.
        calls: Our other sends within an hour of theirs.
        log: What was read.
        horizon: Seconds after a send from which a missing row means that nothing was charged.
        named: The log's rows by their ids.
    """

    doubts: Sequence[Doubt]
    sends: Sequence[tuple[int, Send]]
    calls: Sequence[KnownCall]
    log: CallLog
    horizon: float
    named: Mapping[str | None, LogRow]

    def window(self) -> tuple[float, float]:
        """Return where rows lie, in seconds from our sends, by the clocks and our answered calls.

        Raises:
            _UntrustedLogError: If the log does not show these calls, or not there.
        """
        low, high = self.log.skew[0] - ROUNDING, self.log.skew[1] + ROUNDING
        shown: list[tuple[float, float]] = []
        for call in self.calls:
            send, row = call.send, self.named.get(call.send.request_id)
            if row is not None:
                # When it left is known only that well, so it may have taken as little or as long.
                shown.append((_start(row) - send.until, _start(row) - send.at))
                continue
            due = is_reached(send, self.log) and is_old(send, self.log, self.horizon)
            if send.request_id is not None and call.charge is Charge.YES and due:
                shown_as = printable(send.request_id, 100)
                raise _UntrustedLogError(f"it does not show our own call {shown_as}")
        if not shown:
            raise _UntrustedLogError("it shows none of our own calls of that time")
        before = max(0.0, low - min(longest for _, longest in shown))
        after = max(0.0, max(shortest for shortest, _ in shown) - high)
        off = sum(longest < low or shortest > high for shortest, longest in shown)
        if off * 4 > len(shown) or max(before, after) > STRAGGLING:
            raise _UntrustedLogError("its times are not those of our own calls")
        if len(shown) < MANY:
            return low - before, high + after
        least, most = min(shortest for shortest, _ in shown), max(longest for _, longest in shown)
        return least - EARLIER, most + LATER

    def left_over(self, costs: Sequence[LogRow], low: float, high: float) -> list[LogRow]:
        """Return the charges of the batch's time that are not the answered calls'.

        Raises:
            _UntrustedLogError: If one has no time, no id of its own, or a model that is not ours.
        """
        starts = sorted(send.at for _, send in self.sends)
        high += max(send.until - send.at for _, send in self.sends)

        def is_of_the_time(row: LogRow) -> bool:
            at = row.end if row.start is None else row.start
            return at is None or is_any(starts, at - high - HORIZON, at - low + HORIZON)

        costs = list(filter(is_of_the_time, costs))
        known = [call.send.request_id for call in self.calls]
        asked = [send.request_id for _, send in self.sends]
        for ids in ([row.id for row in costs], known + asked):
            if twice := [id_ for id_, times in Counter(ids).items() if id_ and times > 1]:
                raise _UntrustedLogError(f"several calls have the id {printable(twice[0], 100)}")
        models = {call.model for call in self.calls} | {doubt.model for doubt in self.doubts}
        if None not in models:  # else the gateway chose one, which its log may call by any name
            models |= {None, *(self.named[id_].model for id_ in known if id_ in self.named)}
            for row in costs:
                if row.model not in models:
                    raise _foreign(row)
        # Rows that name their item stand at the end, out of reach of all sends but their own.
        ours, named = {*known} - {None}, {*asked} - {None}
        left = (row for row in costs if row.id not in ours)
        return sorted(left, key=lambda row: (row.id in named, _start(row)))

    def claims(self, left: list[LogRow], low: float, high: float) -> list[_Claim]:
        """Return the sends that have rows within reach, in the order of the first of them."""
        ids = {send.request_id for _, send in self.sends} - {None}
        places = {row.id: place for place, row in enumerate(left) if row.id in ids}
        starts = [_start(row) for row in left[: len(left) - len(places)]]
        nameless = (call for call in self.calls if call.send.request_id is None)
        others = [(_OTHER, call.send) for call in nameless if call.charge is not Charge.NO]
        claims = []
        for owner, send in (*self.sends, *others):
            first = bisect_left(starts, send.at + low)
            end = bisect_right(starts, send.until + high)
            if send.request_id in places:
                first = places[send.request_id]
                end = first + 1
            if first < end:
                claims.append(_Claim(first, end, owner))
        return sorted(claims, key=lambda claim: (claim.first, claim.end))

    def decide(
        self, parts: list[list[_Claim]], left: list[LogRow], loose: list[LogRow]
    ) -> Settlement:
        """Return what becomes of each item."""
        found: dict[int, Rule] = {}
        reach: defaultdict[int, set[int]] = defaultdict(set)
        groups: list[str] = []
        least = most = 0
        for part in parts:
            rows = [left[place] for place in _rows(part)]
            own = [claim for claim in part if claim.owner != _OTHER]
            refunds = sum((row.end or math.inf) >= _start(rows[0]) for row in loose)
            unpriced = sum(row.kind is RowKind.OPEN for row in rows)
            rule = Rule.REFUNDED if refunds else Rule.OPEN if unpriced else Rule.SHARED
            needed = _needed(part) if rule is Rule.SHARED else set()
            for claim in own:
                reach[claim.owner].update(range(claim.first, claim.end))
                if found.get(claim.owner) is not Rule.NEEDED:
                    found[claim.owner] = Rule.NEEDED if claim.owner in needed else rule
            others = len(_matched([claim for claim in part if claim.owner == _OTHER]))
            sure, possible = max(0, len(rows) - others - refunds - unpriced), len(_matched(own))
            least, most = least + sure, most + possible
            if (items := len({claim.owner for claim in own})) > 1:
                number = f"{sure}" if sure == possible else f"{sure} to {possible}"
                verb = "was" if possible == 1 else "were"
                groups.append(f"{number} of these {items} {verb} charged")
        shown = sorted(call.send.at for call in self.calls if call.send.request_id in self.named)
        decisions = []
        for owner, doubt in enumerate(self.doubts):
            silence = against_free(doubt, self.log, self.horizon, shown)
            rule = found.get(owner) or silence or Rule.FREE
            within = tuple(left[place] for place in sorted(reach[owner]))
            decisions.append(Decision(id=doubt.id, rule=rule, rows=within))
            if owner not in found and rule is not Rule.FREE:
                most += len(doubt.sends)
        return Settlement(decisions=tuple(decisions), groups=tuple(groups), least=least, most=most)


def _parts(claims: list[_Claim], left: list[LogRow]) -> Iterator[list[_Claim]]:
    """Yield the claims that hang together by their rows, in the order of these.

    Raises:
        _UntrustedLogError: If a row is left that no claim explains.
    """
    held: list[_Claim] = []
    first = end = 0
    for claim in (*claims, _Claim(len(left), len(left), _OTHER)):
        if claim.first >= end:
            if len(_matched(held)) < end - first:
                raise _foreign(left[first])
            if held:
                yield held
            if claim.first > end:
                raise _foreign(left[end])
            held, first = [], end
        held.append(claim)
        end = max(end, claim.end)


def _rows(part: Sequence[_Claim]) -> range:
    """Return the places of all rows that some claims reach."""
    return range(part[0].first, max(claim.end for claim in part)) if part else range(0)


def _matched(claims: Sequence[_Claim]) -> list[_Claim]:
    """Return the claims of a largest matching of claims and rows, which are claimed one by one.

    A claim's rows are an interval, so each row may go to the claim that ends first (Glover 1967).
    """
    matched, at = [], 0
    waiting: list[tuple[int, int]] = []
    for row in _rows(claims):
        while at < len(claims) and claims[at].first <= row:
            heapq.heappush(waiting, (claims[at].end, at))
            at += 1
        while waiting and waiting[0][0] <= row:
            heapq.heappop(waiting)
        if waiting:
            matched.append(claims[heapq.heappop(waiting)[1]])
    return matched


def _start(row: LogRow) -> float:
    if row.start is None:
        raise _UntrustedLogError("it has rows without a time")
    return row.start


def _foreign(row: LogRow) -> _UntrustedLogError:
    name = f" {printable(row.id, 100)}" if row.id else ""
    return _UntrustedLogError(
        f"its charge{name} is for no call of this batch, so somebody else uses the key"
    )


def _needed(part: list[_Claim]) -> set[int]:
    """Return the owners without whom the part's rows cannot all be explained."""
    if len(part) > CROWD:
        return set()
    return {
        owner
        for owner in {claim.owner for claim in _matched(part)} - {_OTHER}
        if len(_matched([claim for claim in part if claim.owner != owner])) < len(_rows(part))
    }
