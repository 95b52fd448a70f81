"""Settle by what a log shows beyond our answered calls, where it keeps no key of ours.

The rows that are not the answered calls' are the charges that nobody received. Each must be one
of our sends, and is matched by time::

    sends in doubt   |--a--|   |--b--|                |--e--|     when it may have come in
                         |---c---|     |---d---|
    rows left over     1         2 3                              when the log says it came in

    a, b and c are one part with three rows: all three were charged. With row 2 alone, "1 of these
    2 were charged" of b and c. d and e have no row within reach: free.

What must hold, or nothing is settled at all: each answered call of ours has its row, where its
time says; and each row of the batch's time is a call of ours, or else somebody uses our key.
Whoever a row may belong to, an item that has one within reach is never called free.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Final

import attrs

from imagen_async.errors import Charge
from imagen_async.policy.evidence import (
    HOUR,
    ROUNDING,
    Evidence,
    Surroundings,
    is_old,
    is_reached,
    standing,
)
from imagen_async.policy.settlement import Decision, Group, RowKind, Rule, Settlement
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

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


@attrs.frozen
class _Window:
    """Where the log's start of a request lies, in seconds from our send."""

    low: float
    high: float

    def around(self, send: Send) -> tuple[float, float]:
        """Return the earliest and the latest start of a send's row."""
        return send.at + self.low, send.until + self.high


@attrs.frozen
class _Claim:
    """A send that may have caused the rows from ``first`` up to, not including, ``end``.

    Args:
        owner: The item's place; ``_OTHER`` for a send that is not to be settled.
        first: The first of the rows left over.
        end: The one after the last.
    """

    owner: int
    first: int
    end: int


@attrs.frozen
class _Part:
    """Claims and rows that hang together.

    Args:
        claims: In the order of their first rows.
        first: The first of the rows left over.
        end: The one after the last.
    """

    claims: list[_Claim]
    first: int
    end: int

    @property
    def size(self) -> int:
        """How many rows it has."""
        return self.end - self.first

    def count(self, claims: Sequence[_Claim]) -> int:
        """Return how many of its rows some of its claims can explain, one row each."""
        return len(_matched(claims, self.first, self.end))


def settle_by_difference(
    doubts: Sequence[Doubt], calls: Collection[KnownCall], log: CallLog, horizon: float
) -> Settlement:
    """Return what a log says of the items in doubt; see ``settle``."""
    if not doubts:
        return Settlement(decisions=())
    sends = [send for doubt in doubts for send in doubt.sends]
    hours = Surroundings.of(sends, HOUR, HOUR)
    calls = [call for call in calls if call.send.at in hours]
    stand, loose = standing(log.rows)
    # A request may have rows of its failures inside the gateway, too; its charge says more.
    rows = sorted(log.rows, key=lambda row: row.costs)
    named = {row.id: row for row in rows if row.id is not None and row.kind is not RowKind.REFUND}
    window, problem = _window(calls, named, log, horizon)
    time = Surroundings.of(sends, horizon - window.low, horizon + window.high)
    costs = [row for row in stand if row.costs and _is_within(row, time)]
    ours = {call.send.request_id for call in calls}
    left = _distinct([row for row in costs if row.id is None or row.id not in ours])
    if not problem and any(row.start is None for row in left):
        problem = "it has rows without a time"
    problem = problem or _strange_model(costs, doubts, calls, named)
    if problem:
        return _blocked(doubts, problem)
    ids = {send.request_id for doubt in doubts for send in doubt.sends}
    # Rows that name their item stand at the end, out of reach of all sends but their own.
    left.sort(key=lambda row: (row.id is not None and row.id in ids, _start(row)))
    claims = _claims(doubts, calls, left, window)
    parts = list(_parts(claims))
    stray = _stray(parts, len(left))
    if stray is not None:
        return _blocked(doubts, _foreign(left[stray]))
    shown = sorted(call.send.at for call in calls if call.send.request_id in named)
    evidence = Evidence(log, horizon, shown)
    return _decide(doubts, parts, left, loose, evidence)


def _blocked(doubts: Sequence[Doubt], problem: str) -> Settlement:
    decisions = [Decision(id=doubt.id, charge=Charge.MAYBE, rule=Rule.BLOCKED) for doubt in doubts]
    most = sum(len(doubt.sends) for doubt in doubts)
    problem = f"The log settles nothing: {problem}."
    return Settlement(decisions=tuple(decisions), most=most, problem=problem)


def _start(row: LogRow) -> float:
    return row.start or 0.0


def _is_within(row: LogRow, time: Surroundings) -> bool:
    at = row.end if row.start is None else row.start
    return at is None or at in time


def _distinct(rows: list[LogRow]) -> list[LogRow]:
    """Return the rows, of those with one id the first: they are of one request."""
    found: dict[object, LogRow] = {}
    for place, row in enumerate(rows):
        found.setdefault(place if row.id is None else row.id, row)
    return list(found.values())


def _window(
    calls: Sequence[KnownCall], named: dict[str, LogRow], log: CallLog, horizon: float
) -> tuple[_Window, str]:
    """Return where rows lie by the clocks and by our answered calls, and what speaks against it."""
    window = _Window(log.skew[0] - ROUNDING, log.skew[1] + ROUNDING)
    shown: list[_Window] = []
    before = after = 0.0
    off = 0
    for call in calls:
        send, id_ = call.send, call.send.request_id
        row = None if id_ is None else named.get(id_)
        if row is None:
            due = is_reached(send, log) and is_old(send, log, horizon)
            if id_ is not None and call.charge is Charge.YES and due:
                return window, f"it does not show our own call {printable(id_, 100)}"
            continue
        if row.start is None:
            return window, "it has rows without a time"
        first, last = window.around(send)
        before, after = max(before, first - row.start), max(after, row.start - last)
        off += not first <= row.start <= last
        # When it left is known only that well, so it may have taken as little or as long.
        shown.append(_Window(row.start - send.until, row.start - send.at))
    if not shown:
        return window, "it shows none of our own calls of that time"
    if off * 4 > len(shown) or max(before, after) > STRAGGLING:
        return window, "its times are not those of our own calls"
    if len(shown) < MANY:
        return _Window(window.low - before, window.high + after), ""
    low, high = min(each.low for each in shown), max(each.high for each in shown)
    return _Window(low - EARLIER, high + LATER), ""


def _strange_model(
    costs: list[LogRow],
    doubts: Sequence[Doubt],
    calls: Sequence[KnownCall],
    named: dict[str, LogRow],
) -> str:
    models = {call.model for call in calls} | {doubt.model for doubt in doubts}
    if None in models:
        return ""  # the gateway chose one, which its log may call by any name
    logged = (named.get(call.send.request_id or "") for call in calls)
    models |= {row.model for row in logged if row is not None}
    strange = (row for row in costs if row.model and row.model not in models)
    row = next(strange, None)
    return "" if row is None else _foreign(row)


def _foreign(row: LogRow) -> str:
    name = f" {printable(row.id, 100)}" if row.id else ""
    return f"its charge{name} is for no call of this batch, so somebody else uses the key"


def _claims(
    doubts: Sequence[Doubt], calls: Sequence[KnownCall], left: list[LogRow], window: _Window
) -> list[_Claim]:
    """Return the sends that have rows within reach, in the order of the first of them."""
    owned: list[tuple[int, Send]] = []
    for owner, doubt in enumerate(doubts):
        owned += [(owner, send) for send in doubt.sends]
    ids = {send.request_id for _, send in owned} - {None}
    places = {row.id: place for place, row in enumerate(left) if row.id in ids}
    starts = [_start(row) for row in left[: len(left) - len(places)]]
    nameless = (call for call in calls if call.send.request_id is None)
    owned += [(_OTHER, call.send) for call in nameless if call.charge is not Charge.NO]
    claims = []
    for each, send in owned:
        place = places.get(send.request_id or "")
        if place is not None:
            claims.append(_Claim(each, place, place + 1))
            continue
        low, high = window.around(send)
        first, end = bisect_left(starts, low), bisect_right(starts, high)
        if first < end:
            claims.append(_Claim(each, first, end))
    return sorted(claims, key=lambda claim: (claim.first, claim.end))


def _parts(claims: list[_Claim]) -> Iterator[_Part]:
    """Yield what hangs together, in the order of the rows."""
    held: list[_Claim] = []
    end = 0
    for claim in claims:
        if held and claim.first >= end:
            yield _Part(held, held[0].first, end)
            held, end = [], 0
        held.append(claim)
        end = max(end, claim.end)
    if held:
        yield _Part(held, held[0].first, end)


def _matched(claims: Sequence[_Claim], first: int, end: int) -> list[_Claim]:
    """Return the claims of a largest matching of rows and claims.

    A claim's rows are an interval, so each row may go to the claim that ends first (Glover 1967).
    """
    matched, at = [], 0
    waiting: list[tuple[int, int]] = []
    for row in range(first, end):
        while at < len(claims) and claims[at].first <= row:
            heapq.heappush(waiting, (claims[at].end, at))
            at += 1
        while waiting and waiting[0][0] <= row:
            heapq.heappop(waiting)
        if waiting:
            matched.append(claims[heapq.heappop(waiting)[1]])
    return matched


def _stray(parts: list[_Part], rows: int) -> int | None:
    """Return the place of a row that no send of ours explains; None if there is none."""
    covered = 0
    for part in parts:
        if part.first > covered:
            return covered
        if part.count(part.claims) < part.size:
            return part.first
        covered = part.end
    return covered if covered < rows else None


@attrs.frozen
class _Found:
    """What one part says: its items by their places, and how many of its charges are theirs."""

    decisions: dict[int, Decision]
    least: int
    most: int


def _decide(
    doubts: Sequence[Doubt],
    parts: list[_Part],
    left: list[LogRow],
    loose: list[LogRow],
    evidence: Evidence,
) -> Settlement:
    decisions: dict[int, Decision] = {}
    groups: list[Group] = []
    least = most = 0
    for part in parts:
        found = _decide_part(doubts, part, left, loose, len(groups))
        for owner, decision in found.decisions.items():
            known = decisions.get(owner)
            decisions[owner] = decision if known is None else _worse(known, decision)
        least, most = least + found.least, most + found.most
        if len(found.decisions) > 1:
            ids = tuple(decision.id for decision in found.decisions.values())
            groups.append(Group(ids=ids, least=found.least, most=found.most))
    for owner, doubt in enumerate(doubts):
        if owner not in decisions:
            against = evidence.against_free(doubt)
            most += 0 if against is None else len(doubt.sends)
            charge = Charge.NO if against is None else Charge.MAYBE
            decisions[owner] = Decision(id=doubt.id, charge=charge, rule=against or Rule.FREE)
    settled = tuple(decisions[owner] for owner in range(len(doubts)))
    return Settlement(decisions=settled, groups=tuple(groups), least=least, most=most)


def _worse(one: Decision, other: Decision) -> Decision:
    """Return what two parts say of an item that went out more than once."""
    worse = max(one, other, key=lambda decision: decision.charge)
    return attrs.evolve(worse, rows=(*one.rows, *other.rows))


def _decide_part(
    doubts: Sequence[Doubt], part: _Part, left: list[LogRow], loose: list[LogRow], group: int
) -> _Found:
    rows = left[part.first : part.end]
    own = [claim for claim in part.claims if claim.owner != _OTHER]
    others = [claim for claim in part.claims if claim.owner == _OTHER]
    refunds = sum((row.end or math.inf) >= _start(rows[0]) for row in loose)
    unpriced = sum(row.kind is RowKind.OPEN for row in rows)
    why = Rule.REFUNDED if refunds else Rule.OPEN if unpriced else Rule.SHARED
    needed = _needed(part) if why is Rule.SHARED else set()
    places: dict[int, set[int]] = {}
    for claim in own:
        places.setdefault(claim.owner, set()).update(range(claim.first, claim.end))
    alone = len(places) == 1 and not others
    decisions = {
        owner: Decision(
            id=doubts[owner].id,
            charge=Charge.YES if owner in needed else Charge.MAYBE,
            rule=why if owner not in needed else Rule.CHARGED if alone else Rule.NEEDED,
            rows=tuple(left[place] for place in sorted(within)),
            group=group if len(places) > 1 else None,
        )
        for owner, within in sorted(places.items())
    }
    sure = max(0, part.size - part.count(others) - refunds - unpriced)
    return _Found(decisions, sure, part.count(own))


def _needed(part: _Part) -> set[int]:
    """Return the owners without whom the part's rows cannot all be explained."""
    if len(part.claims) > CROWD:
        return set()
    needed = set()
    matched = {claim.owner for claim in _matched(part.claims, part.first, part.end)}
    for owner in matched - {_OTHER}:
        rest = [claim for claim in part.claims if claim.owner != owner]
        if part.count(rest) < part.size:
            needed.add(owner)
    return needed
