"""The retry decision: a table of cases, its bounds for all inputs, and its budget in an outage."""

import math
import random
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen_async.errors import Charge, ConfigurationError, Verdict
from imagen_async.policy.circuit import PROBE_EVERY
from imagen_async.policy.retry import (
    LONGEST_WAIT,
    GiveUp,
    History,
    Retry,
    RetryBudget,
    RetryPolicy,
    backoff,
    decide,
)
from imagen_async.wire.verdict import Judgement

POLICY = RetryPolicy()
CHARGES = {Verdict.UNKNOWN: Charge.MAYBE, Verdict.SPOILED: Charge.YES, Verdict.DONE: Charge.YES}
FAILURES = [Verdict.FAILED, Verdict.NOT_SENT, Verdict.UNKNOWN]

draws = st.floats(0, 1, exclude_max=True)
times = st.none() | st.floats(0, 1e12)
histories = st.builds(
    History,
    failures=st.integers(1, 9),
    refusals=st.integers(1, 9),
    charges=st.integers(0, 3),
    sends=st.integers(0, 5),
    pending=st.integers(1, 999),
)
policies = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 9),
    max_sends=st.integers(1, 9),
    max_refusals=st.none() | st.just("auto") | st.integers(1, 9),
    max_charges=st.integers(1, 3),
    backoff_base=st.floats(1e-9, 1e9),
    backoff_cap=st.floats(1e-9, 1e9),
    retry_after_max=st.floats(1e-9, 1e9),
)


def judged(verdict: Verdict, *, again: bool = True, pending: bool = False) -> Judgement:
    charge = CHARGES.get(verdict, Charge.NO)
    return Judgement(verdict, charge, again, "The gateway failed.", pending=pending)


def spent() -> RetryBudget:
    budget = RetryBudget()
    while budget.take():
        pass
    return budget


def decided(
    verdict: Verdict,
    history: History,
    *,
    policy: RetryPolicy = POLICY,
    again: bool = True,
    retry_after: float | None = None,
    left: float = math.inf,
    budget: RetryBudget | None = None,
    draw: float = 0.5,
    waits: bool = False,
    gave_up: str = "",
    closings: int | None = None,
    pending: bool = False,
    key_honoured: bool = False,
) -> Retry | GiveUp:
    return decide(
        policy,
        history,
        judged(verdict, again=again, pending=pending),
        retry_after=retry_after,
        left=left,
        budget=budget or RetryBudget(),
        draw=draw,
        waits=waits,
        key_honoured=key_honoured,
        gave_up=gave_up,
        closings=closings,
    )


def test_the_defaults_are_the_promise() -> None:
    """Unless told otherwise a call may be charged once, and begins with nothing counted."""
    assert attrs.astuple(RetryPolicy()) == (4, "auto", 1, 4, True, 0.5, 20.0, 60.0)
    assert History() == History(failures=0, refusals=0, charges=0, sends=0, pending=0)
    unknown = decided(Verdict.UNKNOWN, History(failures=1, charges=1))
    assert unknown == GiveUp("the charge cap of 1")


def test_one_attempt_is_named_in_the_singular() -> None:
    """The reason reads well where a single attempt or refusal was allowed."""
    policy = RetryPolicy(max_attempts=1, max_refusals=1)
    once = History(failures=1, refusals=1)
    assert decided(Verdict.FAILED, once, policy=policy) == GiveUp("1 attempt")
    assert decided(Verdict.REFUSED, once, policy=policy) == GiveUp("1 refusal", 0.25, True)


@pytest.mark.parametrize("verdict", [Verdict.FAILED, Verdict.REFUSED, Verdict.UNKNOWN])
@pytest.mark.parametrize("waits", [True, False])
def test_no_verdict_is_sent_beyond_max_sends(verdict: Verdict, waits: bool) -> None:
    """Whatever an answer means, a body that went out so often stays where it is."""
    policy = RetryPolicy(max_attempts=9, max_refusals=None, max_charges=9, max_sends=3)
    for budget in (RetryBudget(), spent()):
        step = decided(verdict, History(sends=3), policy=policy, waits=waits, budget=budget)
        assert isinstance(step, GiveUp)
        assert step.reason == "it went out 3 times, and max_sends allows no more"
        below = decided(verdict, History(sends=2), policy=policy, waits=True, budget=budget)
        assert isinstance(below, Retry)


def test_a_run_that_gave_up_sends_nothing_more() -> None:
    """The reason of the run ends each of its calls."""
    step = decided(Verdict.NOT_SENT, History(failures=1), gave_up="nothing was reached")
    assert step == GiveUp("nothing was reached")


def test_a_silent_server_asks_for_no_wait() -> None:
    """However little is allowed to be asked for, an answer without Retry-After is within it."""
    policy = RetryPolicy(retry_after_max=0.1)
    assert decided(Verdict.FAILED, History(failures=1), policy=policy) == Retry(0.25)


@pytest.mark.parametrize("verdict", [Verdict.FAILED, Verdict.NOT_SENT])
def test_a_failure_waits_alone_and_longer_each_time(verdict: Verdict) -> None:
    """Three uncharged failures are sent again after a doubling wait, the fourth is the last."""
    steps = [decided(verdict, History(failures=n)) for n in (1, 2, 3, 4)]
    assert steps == [Retry(0.25), Retry(0.5), Retry(1.0), GiveUp("4 attempts")]


def test_a_refusal_closes_the_gate_for_every_call() -> None:
    """In generate three refusals wait at the gate; the fourth ends the call and still closes it."""
    steps = [decided(Verdict.REFUSED, History(refusals=n)) for n in (1, 2, 3, 4)]
    assert steps == [
        Retry(0.25, closes_gate=True),
        Retry(0.5, closes_gate=True),
        Retry(1.0, closes_gate=True),
        GiveUp("4 refusals", 2.0, closes_gate=True),
    ]


@pytest.mark.parametrize(
    ("max_refusals", "waits", "refusals", "gives_up"),
    [
        ("auto", False, 3, False),
        ("auto", False, 4, True),
        ("auto", True, 1999, False),
        ("auto", True, 2000, True),
        (None, False, 10_000, False),
        (None, True, 10_000, False),
        (1, False, 1, True),
        (2, True, 1, False),
        (2, True, 2, True),
    ],
)
def test_how_many_refusals_end_a_call(
    max_refusals: Any, waits: bool, refusals: int, gives_up: bool
) -> None:
    """A set limit holds everywhere; "auto" is 4 in generate and 2000 where calls wait."""
    policy = RetryPolicy(max_refusals=max_refusals)
    step = decided(Verdict.REFUSED, History(refusals=refusals), policy=policy, waits=waits)
    assert isinstance(step, GiveUp) is gives_up


def test_refusals_and_failures_are_counted_apart() -> None:
    """A call that was often refused may still fail, and the other way round."""
    often = History(failures=3, refusals=3)
    assert isinstance(decided(Verdict.FAILED, often), Retry)
    assert isinstance(decided(Verdict.REFUSED, often), Retry)


def test_the_gates_closings_set_the_wait_of_a_refusal() -> None:
    """A first refusal of a call that is the gate's fifth waits as long as a fifth."""
    refused = decided(Verdict.REFUSED, History(refusals=1), closings=5)
    assert refused == Retry(4.0, closes_gate=True)
    assert decided(Verdict.FAILED, History(failures=1), closings=5) == Retry(0.25)


@pytest.mark.parametrize(
    ("verdict", "charges", "max_charges", "step"),
    [
        (Verdict.UNKNOWN, 1, 1, GiveUp("the charge cap of 1")),
        (Verdict.UNKNOWN, 1, 2, Retry(0.25)),
        (Verdict.UNKNOWN, 2, 2, GiveUp("the charge cap of 2")),
        (Verdict.FAILED, 1, 1, GiveUp("the charge cap of 1")),
        (Verdict.FAILED, 1, 2, Retry(0.25)),
        (Verdict.REFUSED, 1, 1, GiveUp("the charge cap of 1", 0.25, closes_gate=True)),
    ],
)
def test_nothing_is_sent_once_the_charges_are_used_up(
    verdict: Verdict, charges: int, max_charges: int, step: Retry | GiveUp
) -> None:
    """Whatever the last attempt was, the charges of all of them stay below the cap."""
    policy = RetryPolicy(max_charges=max_charges)
    history = History(failures=1, refusals=1, charges=charges)
    assert decided(verdict, history, policy=policy) == step


@pytest.mark.parametrize("verdict", [Verdict.QUOTA, Verdict.REJECTED, Verdict.SPOILED])
@pytest.mark.parametrize("waits", [False, True])
def test_what_cannot_help_is_not_repeated(verdict: Verdict, waits: bool) -> None:
    """A permanent verdict ends the call at once, without a reason and with the gate as it is."""
    step = decided(verdict, History(failures=1), again=False, waits=waits, budget=spent())
    assert step == GiveUp("")


def test_a_final_refusal_still_closes_the_gate() -> None:
    """A server that forbids the retry of this request is busy for the others all the same."""
    step = decided(Verdict.REFUSED, History(refusals=1), again=False, retry_after=20.0, draw=0.0)
    assert step == GiveUp("", 20.0, closes_gate=True)


@pytest.mark.parametrize(
    ("asked", "draw", "wait"),
    [
        (None, 0.5, 0.25),
        (0.0, 0.5, 0.25),
        (0.4, 0.5, 0.4),
        (0.5, 0.0, 0.5),
        (1.0, 0.5, 1.05),
        (59.0, 0.5, 59.5),
        (60.0, 0.0, 60.0),
    ],
)
def test_the_server_names_the_wait(asked: float | None, draw: float, wait: float) -> None:
    """A Retry-After is kept with up to 1 s of jitter; one that says «at once» is backed off."""
    for verdict, history in (
        (Verdict.REFUSED, History(refusals=1)),
        (Verdict.FAILED, History(failures=1)),
    ):
        step = decided(verdict, history, retry_after=asked, draw=draw)
        assert isinstance(step, Retry)
        assert step.wait == pytest.approx(wait)


@pytest.mark.parametrize(("asked", "named"), [(60.5, "61"), (3600.0, "3600"), (1e9, "1000000000")])
def test_generate_does_not_sit_out_a_long_wait(asked: float, named: str) -> None:
    """More than retry_after_max ends a single call at once, and closes the gate to the others."""
    reason = f"the server asked for {named} s, more than retry_after_max"
    step = decided(Verdict.REFUSED, History(refusals=1), retry_after=asked, draw=0.0)
    assert step == GiveUp(reason, min(asked, LONGEST_WAIT), closes_gate=True)
    assert decided(Verdict.FAILED, History(failures=1), retry_after=asked) == GiveUp(reason)


@pytest.mark.parametrize(("asked", "wait"), [(600.0, 600.5), (3600.0, 3600.0), (1e12, 3600.0)])
def test_a_batch_sits_out_a_long_wait_up_to_an_hour(asked: float, wait: float) -> None:
    """Where calls wait, the server's wait is kept, but a wrong one does not stop a run for ever."""
    step = decided(Verdict.REFUSED, History(refusals=1), retry_after=asked, waits=True)
    assert step == Retry(wait, closes_gate=True)


@pytest.mark.parametrize(
    ("verdict", "left", "waits", "step"),
    [
        (Verdict.FAILED, 30.0, False, GiveUp("no time left")),
        (Verdict.FAILED, 30.0, True, GiveUp("no time left")),
        (Verdict.FAILED, 30.1, False, Retry(30.0)),
        (Verdict.REFUSED, 30.0, False, GiveUp("no time left", 30.0, closes_gate=True)),
        (Verdict.REFUSED, 0.1, True, Retry(30.0, closes_gate=True)),
        (Verdict.REFUSED, 0.0, True, GiveUp("no time left", 30.0, closes_gate=True)),
    ],
)
def test_no_wait_outlasts_the_deadline(
    verdict: Verdict, left: float, waits: bool, step: Retry | GiveUp
) -> None:
    """A wait that leaves no time is not begun; where calls wait, the closed gate costs no time."""
    history = History(failures=1, refusals=1)
    assert decided(verdict, history, retry_after=30.0, left=left, waits=waits, draw=0.0) == step


@pytest.mark.parametrize("verdict", [Verdict.FAILED, Verdict.NOT_SENT])
def test_an_empty_budget(verdict: Verdict) -> None:
    """It ends a single call; where calls wait, it turns the retry into a probe of the gate."""
    once, last = History(failures=1), History(failures=4)
    assert decided(verdict, once, budget=spent()) == GiveUp("the retry budget is empty")
    probe = decided(verdict, once, budget=spent(), waits=True)
    assert probe == Retry(PROBE_EVERY, closes_gate=True)
    longer = decided(verdict, once, budget=spent(), waits=True, retry_after=30.0, draw=0.0)
    assert longer == Retry(30.0, closes_gate=True)
    over = decided(verdict, last, budget=spent(), waits=True)
    assert over == Retry(PROBE_EVERY, closes_gate=True), "an outage fails no items of a batch"


def test_only_a_lone_retry_draws_on_the_budget() -> None:
    """Refusals, probes and the end of a call cost nothing; a retry costs one part in ten."""
    budget = RetryBudget()
    for _ in range(20):
        decided(Verdict.REFUSED, History(refusals=1), budget=budget)
        decided(Verdict.FAILED, History(failures=4), budget=budget)
    for _ in range(10):
        assert isinstance(decided(Verdict.FAILED, History(failures=1), budget=budget), Retry)
    assert budget.empty


@given(
    policy=policies,
    verdict=st.sampled_from([*FAILURES, Verdict.REFUSED]),
    history=histories,
    retry_after=times,
    left=st.floats(-10, 1e6) | st.just(math.inf),
    draw=draws,
    waits=st.booleans(),
    empty=st.booleans(),
    key_honoured=st.booleans(),
    pending=st.booleans(),
)
def test_every_retry_keeps_every_limit(
    policy: RetryPolicy,
    verdict: Verdict,
    history: History,
    retry_after: float | None,
    left: float,
    draw: float,
    waits: bool,
    empty: bool,
    key_honoured: bool,
    pending: bool,
) -> None:
    """For any input, a retry is under the caps, fits the time and never knocks too early."""
    pending = pending and verdict is Verdict.UNKNOWN
    budget = spent() if empty else RetryBudget()
    step = decided(
        verdict,
        history,
        policy=policy,
        retry_after=retry_after,
        left=left,
        budget=budget,
        draw=draw,
        waits=waits,
        key_honoured=key_honoured,
        pending=pending,
    )
    drained = waits and empty and not pending
    assert step.closes_gate == (verdict is Verdict.REFUSED or drained)
    assert 0.0 <= step.wait <= max(LONGEST_WAIT, policy.backoff_cap)
    if isinstance(step, GiveUp):
        assert step.reason
        assert step.closes_gate or step.wait == 0.0
        return
    assert key_honoured or history.charges < policy.max_charges
    assert history.sends < policy.max_sends
    assert step.wait >= min(retry_after or 0.0, LONGEST_WAIT)
    assert left > (0.0 if waits and step.closes_gate else step.wait)
    assert waits or (retry_after or 0.0) <= policy.retry_after_max
    if verdict is not Verdict.REFUSED and not pending:
        assert step.closes_gate or history.failures < policy.max_attempts
        assert step.closes_gate is empty


def test_an_honoured_key_lifts_the_charge_cap_alone() -> None:
    """What may have been charged is sent again under its key, within attempts and sends."""
    steps = [
        decided(Verdict.UNKNOWN, History(failures=n, charges=n, sends=n), key_honoured=True)
        for n in (1, 2, 3, 4)
    ]
    assert [type(step) for step in steps] == [Retry, Retry, Retry, GiveUp]
    few = RetryPolicy(max_attempts=2)
    twice = History(failures=2, charges=2, sends=2)
    step = decided(Verdict.UNKNOWN, twice, policy=few, key_honoured=True)
    assert step == GiveUp("2 attempts")
    sent = History(failures=1, charges=1, sends=4)
    step = decided(Verdict.UNKNOWN, sent, key_honoured=True)
    assert step == GiveUp("it went out 4 times, and max_sends allows no more")


@pytest.mark.parametrize("waits", [False, True])
def test_a_key_in_use_is_waited_for_until_no_time_is_left(waits: bool) -> None:
    """The wait costs neither attempts nor budget, grows to its cap, and leaves the gate open."""
    budget = spent()
    asked = {"key_honoured": True, "pending": True, "waits": waits, "budget": budget, "draw": 0.5}
    steps = [
        decided(Verdict.UNKNOWN, History(failures=9, charges=9, sends=1, pending=n), **asked)
        for n in (1, 2, 3, 99)
    ]
    assert steps == [Retry(0.25), Retry(0.5), Retry(1.0), Retry(10.0)]
    late = decided(Verdict.UNKNOWN, History(pending=99), left=10.0, **asked)
    assert late == GiveUp("no time left")
    fresh = RetryBudget()
    for n in range(1, 99):
        decided(Verdict.UNKNOWN, History(pending=n), **{**asked, "budget": fresh})
    assert [fresh.take() for _ in range(11)] == [True] * 10 + [False]


@given(policy=policies, failures=st.integers(1, 10**6), draw=draws)
def test_backoff_stays_in_its_bounds(policy: RetryPolicy, failures: int, draw: float) -> None:
    """For a million failures the wait is a number between 0 and the lower of cap and doubling."""
    wait = backoff(policy, failures, draw)
    assert 0.0 <= wait <= policy.backoff_cap
    if failures < 60:
        assert wait <= policy.backoff_base * 2 ** (failures - 1)


def test_backoff_doubles_up_to_its_cap() -> None:
    """The longest waits are 0.5, 1, 2, 4, 8 and 16 seconds, then 20 for ever."""
    longest = [backoff(POLICY, n, 1.0) for n in (1, 2, 3, 4, 5, 6, 7, 8, 10**6)]
    assert longest == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0, 20.0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_attempts", 0),
        ("max_charges", 0),
        ("max_charges", True),
        ("max_refusals", 0),
        ("max_refusals", "none"),
        ("server_errors_charged", 1),
        ("backoff_base", 0.0),
        ("backoff_cap", math.inf),
        ("retry_after_max", math.nan),
    ],
)
def test_a_policy_that_cannot_work_is_refused(name: str, value: object) -> None:
    """A value out of range is refused by the name of its field."""
    with pytest.raises(ConfigurationError, match=rf"RetryPolicy\.{name} must be"):
        RetryPolicy(**{name: value})


def test_the_budget_is_refunded_and_filled_no_further_than_full() -> None:
    """A retry that succeeds is free, 14 first successes buy one more, and 10 is the most."""
    budget = RetryBudget()
    for _ in range(100):
        assert budget.take()
        budget.succeeded(retried=True)
    for _ in range(1_000):
        budget.succeeded(retried=False)
    assert [budget.take() for _ in range(11)] == [True] * 10 + [False]
    for _ in range(13):
        budget.succeeded(retried=False)
    assert budget.empty
    budget.succeeded(retried=False)
    assert budget.take()


def posts_of(calls: int, works: float, seed: int = 0) -> int:
    """Return the attempts of a client's calls, each of which works with this probability."""
    dice, budget, posts = random.Random(seed), RetryBudget(), 0
    for _ in range(calls):
        failures, retried = 0, False
        while True:
            posts += 1
            if dice.random() < works:
                budget.succeeded(retried=retried)
                break
            failures += 1
            step = decided(
                Verdict.FAILED, History(failures=failures), budget=budget, draw=dice.random()
            )
            if isinstance(step, GiveUp):
                break
            retried = True
    return posts


@pytest.mark.parametrize("calls", [200, 1_000])
def test_a_total_outage_is_not_amplified(calls: int) -> None:
    """Where every attempt fails, 200 calls or more make at most 1.2 times as many requests."""
    assert calls < posts_of(calls, works=0.0) <= 1.2 * calls


@pytest.mark.parametrize("seed", range(5))
def test_a_half_outage_is_not_amplified(seed: int) -> None:
    """Where half the attempts fail, 1,000 calls make at most 1.2 times as many requests."""
    assert posts_of(1_000, works=0.5, seed=seed) <= 1_200


@pytest.mark.parametrize("seed", range(5))
def test_rare_failures_are_all_retried(seed: int) -> None:
    """Where one attempt in a hundred fails, the budget stops nobody."""
    dice = random.Random(seed)
    budget = RetryBudget()
    for _ in range(2_000):
        if dice.random() < 0.01:
            assert budget.take()
            budget.succeeded(retried=True)
        else:
            budget.succeeded(retried=False)
