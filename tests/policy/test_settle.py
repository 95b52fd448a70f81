"""Settling by a log: nothing wrong, whatever the log; and most of it settled where it can be."""

import math
import random
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from imagen_async.errors import Charge
from imagen_async.policy.settle import settle
from imagen_async.policy.settlement import (
    CallLog,
    Doubt,
    KnownCall,
    LogRow,
    RowKind,
    Rule,
    Send,
)
from tests.policy.settle_world import (
    EPOCH,
    World,
    by_date,
    row_of,
    simulate,
    wrong,
)

RUNS = 100
FOREIGN = 5
EXAMPLES = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def doubt(name: str = "a", *times: float, key: str | None = None) -> Doubt:
    sends = tuple(Send(EPOCH + at, EPOCH + at) for at in times or (0.0,))
    return Doubt(id=name, key=key, sends=sends, model="imagen4")


def done(name: str | None = "done", at: float = 60.0, **fields: object) -> KnownCall:
    fields = {"model": "imagen4", **fields}
    return KnownCall(send=Send(EPOCH + at, EPOCH + at, request_id=name), **fields)  # type: ignore[arg-type]


def row(name: str | None, at: float, **fields: object) -> LogRow:
    return row_of(EPOCH + at, 9.0, 0.0, id=name, **fields)  # type: ignore[no-any-return]


def log(*rows: LogRow, **changes: object) -> CallLog:
    found = CallLog(rows=rows, read_at=EPOCH + 5000, whole_since=-math.inf)
    return attrs.evolve(found, **changes)  # type: ignore[arg-type]


OURS = row("done", 60.0)
"""The row of ``done()``."""


@pytest.mark.parametrize(("concurrency", "share"), [(8, 0.85), (16, 0.70), (32, 0.55)])
def test_a_hundred_runs_settle_most_and_nothing_wrong(concurrency: int, share: float) -> None:
    """By difference: none wrong, the number of charges exact, a foreign user settles nothing."""
    settled = total = 0
    for seed in range(RUNS):
        dice = random.Random(seed * 100 + concurrency)
        skew = dice.uniform(-5, 5)
        foreign = seed % FOREIGN == 0
        world = simulate(seed, concurrency=concurrency, prompts=300, skew=skew, foreign=foreign)
        found = settle(world.doubts, world.calls, world.log(skew=by_date(skew, dice)))
        assert wrong(world, found.decisions) == []
        assert bool(found.problem) is foreign
        if not foreign:
            total += len(found.decisions)
            settled += sum(each.charge is not Charge.MAYBE for each in found.decisions)
            assert found.least == found.most == world.charges
    assert settled / total >= share


@settings(EXAMPLES, max_examples=80)
@given(
    seed=st.integers(0, 10**6),
    concurrency=st.integers(1, 32),
    skew=st.floats(-5, 5),
    resends=st.floats(0, 1),
    cut=st.none() | st.integers(0, 100),
    young=st.just(1e6) | st.integers(800, 1200),
)
def test_no_log_of_a_sound_gateway_settles_an_item_wrongly(
    seed: int, concurrency: int, skew: float, resends: float, cut: int | None, young: float
) -> None:
    """Cut short, read early, in any order, of items sent twice: what is settled is true."""
    world = simulate(seed, concurrency=concurrency, prompts=60, skew=skew, resends=resends)
    since = -math.inf
    if cut is not None:
        since = EPOCH + skew + cut
        world.rows = [each for each in world.rows if (each.end or 0) > since]
    # Rows appear late, by up to the horizon.
    read_at, dice = EPOCH + young, random.Random(seed)
    lateness = 900 - 60
    world.rows = [
        each for each in world.rows if (each.end or 0) - skew + dice.uniform(0, lateness) <= read_at
    ]
    log_of = world.log(skew=by_date(skew, dice), whole_since=since, read_at=read_at)
    found = settle(world.doubts, world.calls, log_of)
    assert wrong(world, found.decisions) == []


@EXAMPLES
@given(
    seed=st.integers(0, 10**6),
    concurrency=st.integers(1, 32),
    delay=st.floats(0, 10),
)
def test_requests_that_waited_for_a_connection_are_not_settled_wrongly(
    seed: int, concurrency: int, delay: float
) -> None:
    """Sends that left late, as late as the journal allows for: what is settled is true."""
    world = simulate(seed, concurrency=concurrency, prompts=60)
    dice = random.Random(seed)
    for place, each in enumerate(world.rows):
        if each.id is not None and each.id.startswith("u"):
            late = math.floor(dice.uniform(0, delay))
            start, end = (each.start or 0.0) + late, (each.end or 0.0) + late
            world.rows[place] = attrs.evolve(each, start=start, end=end)
    world.doubts = [
        attrs.evolve(
            each, sends=tuple(attrs.evolve(send, until=send.at + delay) for send in each.sends)
        )
        for each in world.doubts
    ]
    found = settle(world.doubts, world.calls, world.log())
    assert wrong(world, found.decisions) == []


@EXAMPLES
@given(seed=st.integers(0, 10**6), lost=st.integers(0, 5), switched_off=st.booleans())
def test_a_log_that_loses_rows_frees_nothing_it_lost(
    seed: int, lost: int, switched_off: bool
) -> None:
    """Rows that are missing at random, or from a moment on, never make a charged item free."""
    world = simulate(seed, concurrency=8, prompts=60)
    assume(world.doubts)
    dice = random.Random(seed)
    if switched_off:
        world.rows.sort(key=lambda each: each.end or 0)
        world.rows = world.rows[: dice.randrange(len(world.rows) + 1)]
    else:
        known = {call.send.request_id for call in world.calls}
        for each in dice.sample(world.rows, min(lost, len(world.rows))):
            if each.id in known:  # the loss of a doubtful row alone cannot be seen by anyone
                world.rows.remove(each)
    found = settle(world.doubts, world.calls, world.log())
    freed = {each.id for each in found.decisions if each.charge is Charge.NO}
    assert not [name for name in freed if world.charged[name]]


@EXAMPLES
@given(seed=st.integers(0, 10**6), concurrency=st.integers(1, 32))
def test_a_stray_row_of_another_user_never_frees_a_charged_item(
    seed: int, concurrency: int
) -> None:
    """One row of somebody else may look like an item's charge; it hides nobody's."""
    world = simulate(seed, concurrency=concurrency, prompts=60)
    at = EPOCH + random.Random(seed).uniform(-100, 200)
    world.rows.append(row_of(at, 11.0, 0.0, id="stray"))
    found = settle(world.doubts, world.calls, world.log())
    freed = {each.id for each in found.decisions if each.charge is Charge.NO}
    assert not [name for name in freed if world.charged[name]]


def brute(world: World, left: list[LogRow], low: float, high: float) -> dict[str, set[bool]]:
    """Return for each item whether it is charged, over every way to explain the rows."""
    sends = [(each.id, send) for each in world.doubts for send in each.sends]
    ways: dict[str, set[bool]] = {each.id: set() for each in world.doubts}

    def explain(rest: list[LogRow], used: frozenset[int]) -> None:
        if not rest:
            charged = {sends[at][0] for at in used}
            for name, seen in ways.items():
                seen.add(name in charged)
            return
        for at, (_, send) in enumerate(sends):
            if at not in used and send.at + low <= (rest[0].start or 0) <= send.at + high:
                explain(rest[1:], used | {at})

    explain(left, frozenset())
    return ways


@settings(EXAMPLES, max_examples=100)
@given(
    times=st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=2), min_size=1, max_size=4),
    charges=st.data(),
)
def test_it_settles_what_every_explanation_agrees_on(
    times: list[list[int]], charges: st.DataObject
) -> None:
    """Against all ways to give rows to sends: settled is exactly what all of them say."""
    world = World(calls=[done(at=600.0)], rows=[row("done", 600.0)])
    for number, each in enumerate(times):
        world.doubts.append(doubt(f"i{number}", *map(float, each)))
        for at in each:
            if charges.draw(st.booleans()):
                world.rows.append(row(f"r{len(world.rows)}", at + 0.75))
    found = settle(world.doubts, world.calls, world.log())
    ways = brute(world, world.rows[1:], -2.0, 2.0)
    for decision in found.decisions:
        agreed = {True: Charge.YES, False: Charge.NO}
        seen = ways[decision.id]
        assert decision.charge is (agreed[min(seen)] if len(seen) == 1 else Charge.MAYBE)
    assert found.least == found.most == len(world.rows) - 1


def test_charged_alone_names_the_gateways_id() -> None:
    """An item with one row to itself was charged, and support is given that row's id."""
    found = settle([doubt()], [done()], log(OURS, row("x", 0.5)))
    (decision,) = found.decisions
    assert (decision.charge, decision.rule) == (Charge.YES, Rule.NEEDED)
    assert decision.request_id == "x"
    assert (found.least, found.most, found.problem) == (1, 1, "")


def test_items_of_one_moment_are_a_group() -> None:
    """Two rows for three items settle none of them, and say how many were charged."""
    doubts = [doubt("a"), doubt("b", 0.5), doubt("c", 1.0)]
    found = settle(doubts, [done()], log(OURS, row("x", 1.0), row("y", 1.2)))
    assert {decision.charge for decision in found.decisions} == {Charge.MAYBE}
    assert {decision.rule for decision in found.decisions} == {Rule.SHARED}
    assert found.groups == ("2 of these 3 were charged",)
    assert [decision.request_id for decision in found.decisions] == [None] * 3
    found = settle(doubts[:2], [done(), done(None, 0.2)], log(OURS, row("x", 1.0)))
    assert found.groups == ("0 to 1 of these 2 was charged",)


BLOCKED = {
    "empty": (log(), "does not show our own call done"),
    "another key's": (log(row("other", 60.0)), "does not show our own call done"),
    "without ids": (log(row(None, 60.0), row(None, 0.5)), "does not show our own call done"),
    "of another user": (log(OURS, row("x", 30.0)), "x is for no call"),
    "of another model": (log(OURS, row("x", 0.5, model="gpt-5")), "x is for no call"),
    "more rows than sends": (log(OURS, row("x", 0.5), row("y", 0.5)), "is for no call"),
    "without times": (log(OURS, LogRow(kind=RowKind.CHARGE, id="x")), "without a time"),
    "own without a time": (log(attrs.evolve(OURS, start=None)), "without a time"),
    "of another clock": (log(row("done", 660.0)), "times are not those"),
}


@pytest.mark.parametrize(("given_log", "says"), BLOCKED.values(), ids=BLOCKED)
def test_a_log_that_cannot_be_trusted_settles_nothing(given_log: CallLog, says: str) -> None:
    """Not even what it seems to show plainly; and it says why, in one line."""
    found = settle([doubt(), doubt("b", 1000.0)], [done()], given_log)
    assert {decision.rule for decision in found.decisions} == {Rule.BLOCKED}
    assert {decision.charge for decision in found.decisions} == {Charge.MAYBE}
    assert says in found.problem
    assert (found.least, found.most) == (0, 2)


def test_a_log_needs_an_answered_call_of_ours() -> None:
    """If no call of ours was ever answered, nothing shows that the log works."""
    found = settle([doubt()], [], log(row("x", 0.5)))
    assert "none of our own calls" in found.problem


def test_what_happened_far_from_every_doubt_is_of_no_interest() -> None:
    """Another batch with the key, days before, after or between, keeps nothing from settling."""
    days = 86_400.0
    doubts = [doubt("a"), doubt("b", 2 * days)]
    calls = [done(), done("late", 2 * days + 60)]
    rows = [OURS, row("late", 2 * days + 60), row("x", 0.5)]
    rows += [row(f"other-{at}", at) for at in (-days, days, 3 * days)]
    found = settle(doubts, calls, log(*rows, read_at=EPOCH + 9 * days))
    assert [each.charge for each in found.decisions] == [Charge.YES, Charge.NO]


def test_a_call_that_failed_inside_or_was_given_back_is_shown_all_the_same() -> None:
    """An answered call is in the log by any of its rows but a bare refund."""
    error = attrs.evolve(row("done", 70.0, kind=RowKind.FREE), start=None)
    refund = row("done", 99.0, kind=RowKind.REFUND)
    for rows in ((error, OURS), (OURS, error), (OURS, refund)):
        found = settle([doubt()], [done()], log(*rows))
        assert [each.charge for each in found.decisions] == [Charge.NO], rows
    assert settle([doubt()], [done()], log(refund)).problem


def test_ids_of_a_foreign_log_are_shown_safely() -> None:
    """A terminal's escape in an id does not reach the text."""
    found = settle([doubt()], [done()], log(OURS, row("x\x1b[2J", 30.0)))
    assert "\x1b" not in found.problem


def test_a_gateway_that_chose_the_model_may_log_any() -> None:
    """Where no model was asked for, the log's names say nothing of whose a row is."""
    asked = attrs.evolve(doubt(), model=None)
    found = settle([asked], [done()], log(OURS, row("x", 0.5, model="gpt-5")))
    assert found.decisions[0].charge is Charge.YES


SILENT = {
    "young": (log(OURS, read_at=EPOCH + 800), Rule.YOUNG),
    "cut": (log(OURS, whole_since=EPOCH + 1), Rule.CUT),
    "nothing of ours near": (log(row("done", 60.0)), Rule.SILENT),
}


@pytest.mark.parametrize(("given_log", "rule"), SILENT.values(), ids=SILENT)
def test_silence_frees_nothing_by_itself(given_log: CallLog, rule: Rule) -> None:
    """A missing row means nothing if it may come, was cut off, or nothing else of ours is near."""
    asked = doubt("a", *((0.0,) if rule is not Rule.SILENT else (0.0, 4000.0)))
    log_of = attrs.evolve(given_log, read_at=EPOCH + 9000) if rule is Rule.SILENT else given_log
    found = settle([asked], [done()], log_of)
    assert [(each.charge, each.rule) for each in found.decisions] == [(Charge.MAYBE, rule)]
    assert (found.least, found.most) == (0, len(asked.sends))


def test_an_item_without_a_row_is_free_in_the_end() -> None:
    """Older than the horizon, within reach of the log, beside a call that it shows."""
    found = settle([doubt()], [done()], log(OURS))
    assert [(each.charge, each.rule) for each in found.decisions] == [(Charge.NO, Rule.FREE)]
    assert (found.least, found.most) == (0, 0)


def test_an_error_row_is_no_charge() -> None:
    """The log's errors neither charge an item nor count as another user's."""
    error = row("x", 0.5, kind=RowKind.FREE)
    found = settle([doubt()], [done()], log(OURS, error, row("y", 30.0, kind=RowKind.FREE)))
    assert found.decisions[0].charge is Charge.NO


def test_a_refund_of_a_known_charge_undoes_it() -> None:
    """A charge given back whole under its own id is none; in part, it stays one."""
    charge = row("x", 0.5, amount=100.0)
    refund = row("x", 20.0, kind=RowKind.REFUND, amount=100.0)
    found = settle([doubt()], [done()], log(OURS, charge, refund))
    assert found.decisions[0].charge is Charge.NO
    found = settle([doubt()], [done()], log(OURS, charge, attrs.evolve(refund, amount=40.0)))
    assert found.decisions[0].charge is Charge.YES


def test_a_refund_of_nobody_knows_what_leaves_the_doubt() -> None:
    """It may be for the item's own charge; one from before the charge cannot be."""
    charge = row("x", 0.5)
    loose = row(None, 20.0, kind=RowKind.REFUND)
    found = settle([doubt()], [done()], log(OURS, charge, loose))
    assert [(each.charge, each.rule) for each in found.decisions] == [(Charge.MAYBE, Rule.REFUNDED)]
    assert (found.least, found.most) == (0, 1)
    found = settle([doubt()], [done()], log(OURS, charge, row(None, -50.0, kind=RowKind.REFUND)))
    assert found.decisions[0].charge is Charge.YES


def test_a_row_without_a_price_is_neither() -> None:
    """A request that runs, or was done at no price, is not free and not charged."""
    found = settle([doubt()], [done()], log(OURS, row("x", 0.5, kind=RowKind.OPEN)))
    assert [(each.charge, each.rule) for each in found.decisions] == [(Charge.MAYBE, Rule.OPEN)]
    assert (found.least, found.most) == (0, 1)


def test_rows_that_come_twice_count_once() -> None:
    """A page that shifts while it is read repeats rows; one request is one charge."""
    charge = row("x", 0.5)
    found = settle([doubt()], [done()], log(OURS, charge, charge, OURS))
    assert found.decisions[0].charge is Charge.YES


CALLS = [done(f"d{n}", 60.0 + n) for n in range(20)]
SENT_AS = attrs.evolve(doubt(), sends=(Send(EPOCH, EPOCH, request_id="d3"),))
REUSED = {
    "by two charges": ([doubt("a"), doubt("b", 30.0)], row("x", 0.5), row("x", 30.5)),
    "by a call and a charge": ([doubt("a", 60.0)], row("d3", 60.5)),
    "by a call and a send in doubt": ([SENT_AS],),
}


@pytest.mark.parametrize("reused", REUSED.values(), ids=REUSED)
def test_an_id_that_is_used_again_settles_nothing(reused: tuple[Any, ...]) -> None:
    """A charge under the id of another call would be taken for that one's, and its item freed."""
    doubts, *rows = reused
    ours = [row(f"d{n}", 60.3 + n) for n in range(20)]
    found = settle(doubts, CALLS, log(*ours, *rows))
    assert "several calls have the id" in found.problem


def test_rows_without_ids_that_look_alike_are_two_charges() -> None:
    """Two requests of one second have equal rows where the log gives no ids."""
    twins = [row(None, 0.5), row(None, 0.5)]
    found = settle([doubt("a"), doubt("b")], [done()], log(OURS, *twins))
    assert [each.charge for each in found.decisions] == [Charge.YES, Charge.YES]
    assert (found.least, found.most) == (2, 2)


def test_other_sends_of_ours_may_explain_a_row() -> None:
    """The first send of an item that came at the second may own a row: then nothing is sure."""
    earlier = KnownCall(send=Send(EPOCH, EPOCH), charge=Charge.MAYBE, model="imagen4")
    found = settle([doubt()], [done(), earlier], log(OURS, row("x", 0.5)))
    assert found.decisions[0].charge is Charge.MAYBE
    assert (found.least, found.most) == (0, 1)
    refused = attrs.evolve(earlier, charge=Charge.NO)
    found = settle([doubt()], [done(), refused], log(OURS, row("x", 0.5)))
    assert found.decisions[0].charge is Charge.YES


def test_an_answers_own_id_tells_items_of_one_moment_apart() -> None:
    """An error page that carried the gateway's id names the row."""
    named = attrs.evolve(doubt("b"), sends=(Send(EPOCH, EPOCH, request_id="x"),))
    found = settle([doubt("a"), named], [done()], log(OURS, row("x", 0.5)))
    assert [each.charge for each in found.decisions] == [Charge.NO, Charge.YES]
    found = settle([doubt("a"), named], [done()], log(OURS, row("x", 0.5), row("y", 0.5)))
    assert [each.charge for each in found.decisions] == [Charge.YES, Charge.YES]


def test_a_body_that_left_late_is_looked_for_until_then() -> None:
    """A send that may have waited for its connection has a longer window."""
    late = attrs.evolve(doubt(), sends=(Send(EPOCH, until=EPOCH + 10),))
    found = settle([late], [done()], log(OURS, row("x", 9.0)))
    assert found.decisions[0].charge is Charge.YES


def test_answered_calls_place_the_window_only_as_well_as_they_are_known() -> None:
    """Calls of which only the earliest moment is known narrow nothing down."""
    sends = [Send(EPOCH + 60 + n, EPOCH + 70 + n, request_id=f"d{n}") for n in range(20)]
    calls = [KnownCall(send=send, model="imagen4") for send in sends]
    rows = [row(f"d{n}", 60.0 + n + 0.3) for n in range(20)]
    late = attrs.evolve(doubt(), sends=(Send(EPOCH, EPOCH + 10),))
    for at in (0.5, 9.5):
        found = settle([late], calls, log(*rows, row("x", at)))
        assert found.decisions[0].charge is Charge.YES


def test_many_answered_calls_place_the_window() -> None:
    """Twenty rows of our own say where rows lie: closer than two clocks, and as far as they do."""
    calls = [done(f"d{n}", 60.0 + n) for n in range(20)]
    rows = [row(f"d{n}", 60.0 + n + 0.3) for n in range(20)]
    wide = settle([doubt("a"), doubt("b", 3.5)], calls[:19], log(*rows[:19], row("x", 1.75)))
    assert [each.charge for each in wide.decisions] == [Charge.MAYBE] * 2
    near = settle([doubt("a"), doubt("b", 3.5)], calls, log(*rows, row("x", 0.5)))
    assert [each.charge for each in near.decisions] == [Charge.YES, Charge.NO]
    calls[0], rows[0] = done("d0", 60.0), row("d0", 66.0)
    far = settle([doubt("a")], calls, log(*rows, row("x", 6.0)))
    assert far.decisions[0].charge is Charge.YES


def test_a_crowd_is_not_told_apart() -> None:
    """Thousands of sends within one moment stay in doubt, and are counted, in no time."""
    doubts = [doubt(str(n), n / 1000) for n in range(2500)]
    found = settle(doubts, [done(at=600.0)], log(row("done", 600.0), row("x", 1.0)))
    assert {each.charge for each in found.decisions} == {Charge.MAYBE}
    assert (found.least, found.most) == (1, 1)


def keyed(key: str, kind: RowKind = RowKind.CHARGE, **fields: object) -> LogRow:
    return row(fields.pop("id", key.upper()), 0.5, client_id=key, kind=kind, **fields)  # type: ignore[arg-type]


CONTROL = done("c", key="c")
KEYS = frozenset({"a", "c"})

BY_KEY = {
    "charged": ([keyed("c"), keyed("a")], Charge.YES, Rule.CHARGED),
    "not there": ([keyed("c")], Charge.NO, Rule.FREE),
    "failed": ([keyed("c"), keyed("a", RowKind.FREE)], Charge.NO, Rule.FREE),
    "failed and charged": (
        [keyed("c"), keyed("a", RowKind.FREE), keyed("a", id="2")],
        Charge.YES,
        Rule.CHARGED,
    ),
    "running": ([keyed("c"), keyed("a", RowKind.OPEN)], Charge.MAYBE, Rule.OPEN),
    "given back": (
        [keyed("c"), keyed("a"), keyed("a", RowKind.REFUND)],
        Charge.NO,
        Rule.FREE,
    ),
    "given back, of what": (
        [keyed("c"), keyed("a"), keyed("a", RowKind.REFUND, id="?")],
        Charge.MAYBE,
        Rule.REFUNDED,
    ),
    "a log that keeps no keys": ([row("x", 0.5)], Charge.MAYBE, Rule.SILENT),
    "an empty log": ([], Charge.MAYBE, Rule.SILENT),
}


@pytest.mark.parametrize(("rows", "charge", "rule"), BY_KEY.values(), ids=BY_KEY)
def test_a_log_that_keeps_our_key(rows: list[LogRow], charge: Charge, rule: Rule) -> None:
    """A charge under the key is the item's; none means free only where others are shown."""
    found = settle([doubt(key="a")], [CONTROL], log(*rows, keys=KEYS))
    assert [(each.charge, each.rule) for each in found.decisions] == [(charge, rule)]
    assert found.least == int(charge is Charge.YES)
    assert found.most == int(charge is not Charge.NO)


def test_one_charged_call_that_is_not_shown_makes_the_silence_nothing() -> None:
    """A log that drops one of our charged calls within the hour may have dropped this one, too."""
    other = done("d", at=90.0, key="d")
    keys = KEYS | {"d"}
    found = settle([doubt(key="a")], [CONTROL, other], log(keyed("c"), keys=keys))
    assert found.decisions[0].rule is Rule.SILENT
    young = log(keyed("c"), keys=keys, read_at=EPOCH + 950)
    found = settle([doubt(key="a")], [CONTROL, other], young)
    assert found.decisions[0].charge is Charge.NO  # the other one's row may still come


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"read_at": EPOCH + 800}, Rule.YOUNG),
        ({"whole_since": EPOCH + 1}, Rule.CUT),
        ({"keys": frozenset({"c"})}, Rule.UNKEPT),
    ],
)
def test_silence_about_a_key(changes: dict[str, object], rule: Rule) -> None:
    """Nothing under the key means nothing if it is young, cut off, or cannot be kept."""
    changes = {"keys": KEYS, **changes}
    found = settle([doubt(key="a")], [CONTROL], log(keyed("c"), **changes))
    assert [(each.charge, each.rule) for each in found.decisions] == [(Charge.MAYBE, rule)]


def test_nothing_in_doubt() -> None:
    """Without a doubt there is nothing to say."""
    assert settle([], [done()], log(OURS)).decisions == ()
    assert settle([], [], log(keys=frozenset())).decisions == ()


def test_a_clock_that_was_set_meanwhile_settles_nothing() -> None:
    """Rows that lie an hour from their calls mean that a send's age is not known."""
    ours = KnownCall(send=Send(EPOCH, EPOCH), key="ours")
    doubt = Doubt(id="a", key="mine", sends=(Send(EPOCH + 5, EPOCH + 5),))
    for off, charge in ((0.0, Charge.NO), (3000.0, Charge.MAYBE)):
        row = LogRow(kind=RowKind.CHARGE, id="r", client_id="ours", start=EPOCH + off)
        keys = frozenset({"ours", "mine"})
        log = CallLog(rows=(row,), read_at=EPOCH + 4000, whole_since=-math.inf, keys=keys)
        (decision,) = settle([doubt], [ours], log).decisions
        assert decision.charge is charge
