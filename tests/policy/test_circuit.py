"""The breaker: no request while closed, one probe per window, a gentle reopening."""

import heapq
import itertools
from collections.abc import Callable

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from imagen_async.errors import Charge, Verdict
from imagen_async.policy.circuit import PROBE_EVERY, SPREAD, CircuitBreaker, Permit, Wait
from imagen_async.policy.retry import GiveUp, History, RetryBudget, RetryPolicy, decide
from imagen_async.wire.verdict import Judgement

SPREAD_OVER = 8
STEP = SPREAD / SPREAD_OVER
ROUNDING = 1e-6
POLICY = RetryPolicy()


def granted(breaker: CircuitBreaker, now: float) -> Permit:
    answer = breaker.ask(now)
    assert isinstance(answer, Permit), answer
    return answer


def waited(breaker: CircuitBreaker, now: float) -> float:
    answer = breaker.ask(now)
    assert isinstance(answer, Wait), answer
    return answer.seconds


def test_an_open_breaker_grants_everything() -> None:
    """Without refusals every asker may send at once, and nobody is a probe."""
    breaker = CircuitBreaker(SPREAD_OVER)
    permits = [granted(breaker, 0.0) for _ in range(100)]
    assert not any(permit.probe for permit in permits)
    assert not breaker.closed


def test_a_refusal_closes_and_one_probe_follows() -> None:
    """Nobody passes before the wait is over; then one probe does and the others wait for it."""
    breaker = CircuitBreaker(SPREAD_OVER)
    assert breaker.refuse(granted(breaker, 0.0), 1.0, 10.0)
    assert waited(breaker, 1.0) == 10.0
    assert waited(breaker, 10.75) == 0.25
    assert granted(breaker, 11.0).probe
    assert waited(breaker, 11.0) == PROBE_EVERY


def test_one_storm_is_one_closing() -> None:
    """Fifty refusals of one moment put off the end, and make one step of the backoff."""
    breaker = CircuitBreaker(SPREAD_OVER)
    permits = [granted(breaker, 0.0) for _ in range(50)]
    assert breaker.closings(permits[0]) == 1
    closings = [breaker.refuse(permit, 1.0, k / 10) for k, permit in enumerate(permits)]
    assert closings == [True] + [False] * 49
    assert breaker._refusals == breaker.closings(permits[1]) == 1
    assert waited(breaker, 1.0) == 4.9


def test_a_late_refusal_cannot_shorten_the_wait() -> None:
    """A refusal that asks for less than what was asked before changes nothing."""
    breaker = CircuitBreaker(SPREAD_OVER)
    permits = [granted(breaker, 0.0) for _ in range(2)]
    breaker.refuse(permits[0], 0.0, 60.0)
    breaker.refuse(permits[1], 1.0, 2.0)
    assert waited(breaker, 1.0) == 59.0


def test_refused_probes_count_up_and_an_answer_resets() -> None:
    """Each refused probe is one more closing in a row; a reopening starts anew."""
    breaker, now = CircuitBreaker(SPREAD_OVER), 0.0
    for closing in (1, 2, 3, 4):
        permit = granted(breaker, now)
        assert breaker.closings(permit) == closing
        assert breaker.refuse(permit, now, 1.0)
        assert breaker._refusals == closing
        now += 1.0
    breaker.succeed(granted(breaker, now), now)
    assert (breaker.closed, breaker._refusals) == (False, 0)
    assert breaker.closings(granted(breaker, now)) == 1


def test_after_the_reopening_the_rest_are_spread() -> None:
    """The waiting calls pass one step apart for a second, and freely after it."""
    breaker = CircuitBreaker(SPREAD_OVER)
    breaker.refuse(granted(breaker, 0.0), 0.0, 1.0)
    breaker.succeed(granted(breaker, 1.0), 3.0)
    for k in range(SPREAD_OVER):
        assert not granted(breaker, 3.0 + k / 8).probe
        assert waited(breaker, 3.0 + k / 8) == 1 / 8
    assert all(granted(breaker, 4.0) for _ in range(100))


def test_a_slow_probe_does_not_stall_the_client() -> None:
    """While a probe is out the next may go after 5 s, and either of them can reopen."""
    for answers in (0, 1):
        breaker = CircuitBreaker(SPREAD_OVER)
        breaker.refuse(granted(breaker, 0.0), 0.0, 1.0)
        probes = [granted(breaker, 1.0)]
        assert waited(breaker, 5.5) == 0.5
        probes.append(granted(breaker, 6.0))
        assert waited(breaker, 6.0) == PROBE_EVERY
        breaker.succeed(probes[answers], 7.0)
        assert not granted(breaker, 7.0).probe


def test_an_abandoned_probe_frees_its_place() -> None:
    """A probe that ended without an answer lets the next asker probe at once, but only once."""
    breaker = CircuitBreaker(SPREAD_OVER)
    breaker.refuse(granted(breaker, 0.0), 0.0, 1.0)
    first = granted(breaker, 1.0)
    breaker.abandon(first)
    second = granted(breaker, 1.0)
    assert second.probe
    breaker.abandon(first)
    assert waited(breaker, 1.0) == PROBE_EVERY


def test_an_abandoned_call_changes_nothing() -> None:
    """Only a probe holds a place; an ordinary call that was given up held none."""
    breaker = CircuitBreaker(SPREAD_OVER)
    call, refused = granted(breaker, 0.0), granted(breaker, 0.0)
    breaker.refuse(refused, 0.0, 1.0)
    granted(breaker, 1.0)
    breaker.abandon(call)
    assert waited(breaker, 1.0) == PROBE_EVERY


def test_an_answer_to_an_older_call_opens_nothing() -> None:
    """What was sent before the latest closing says nothing about the server since."""
    breaker = CircuitBreaker(SPREAD_OVER)
    older, refused = granted(breaker, 0.0), granted(breaker, 0.0)
    breaker.refuse(refused, 0.0, 1.0)
    breaker.succeed(older, 0.5)
    assert breaker.closed
    slow, quick = granted(breaker, 1.0), granted(breaker, 6.0)
    breaker.refuse(quick, 6.5, 30.0)
    breaker.succeed(slow, 7.0)
    assert waited(breaker, 7.0) == 29.5


def test_a_late_refusal_closes_an_open_breaker_as_a_first() -> None:
    """A refusal that arrives after the reopening is heeded, and starts the count anew."""
    breaker = CircuitBreaker(SPREAD_OVER)
    late, refused = granted(breaker, 0.0), granted(breaker, 0.0)
    breaker.refuse(refused, 0.0, 1.0)
    breaker.succeed(granted(breaker, 1.0), 1.5)
    assert breaker.closings(late) == 1
    assert breaker.refuse(late, 2.0, 4.0)
    assert (waited(breaker, 2.0), breaker._refusals) == (4.0, 1)


class AnyHistory(RuleBasedStateMachine):
    """Calls ask, are refused, answered or given up in any order and at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = CircuitBreaker(SPREAD_OVER)
        self.now = 0.0
        self.out: list[Permit] = []
        self.may_go_at = 0.0
        self.last_probe: tuple[Permit, float] | None = None
        self.opened_at: float | None = None
        self.spread: list[float] = []

    @rule(seconds=st.floats(0, 3) | st.floats(0, 100) | st.just(STEP))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def ask(self) -> None:
        self._asked()

    @rule()
    def ask_again_when_told(self) -> None:
        if wait := self._asked():
            self.now += wait.seconds + ROUNDING
            assert self._asked() is None

    def _asked(self) -> Wait | None:
        closed = self.breaker.closed
        answer = self.breaker.ask(self.now)
        if isinstance(answer, Wait):
            assert 0.0 < answer.seconds < 1e9
            return answer
        assert answer.probe is closed
        if closed:
            assert self.now >= self.may_go_at
            if self.last_probe is not None:
                assert self.now >= self.last_probe[1] + PROBE_EVERY - ROUNDING
            self.last_probe = (answer, self.now)
        elif self.opened_at is not None and self.now < self.opened_at + SPREAD:
            self.spread.append(self.now)
        self.out.append(answer)
        return None

    @precondition(lambda self: self.out)
    @rule(data=st.data(), wait=st.floats(0, 60))
    def refuse(self, data: st.DataObject, wait: float) -> None:
        permit = self._ended(data)
        before, stands = self.breaker._refusals, self.breaker.closings(permit)
        was_open = not self.breaker.closed
        closing = self.breaker.refuse(permit, self.now, wait)
        self.may_go_at = max(0.0 if was_open else self.may_go_at, self.now + wait)
        assert self.breaker.closed
        assert self.breaker._refusals == stands == before + closing
        assert closing or not was_open
        if closing:
            self.last_probe = None

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def succeed(self, data: st.DataObject) -> None:
        permit = self._ended(data)
        was_closed = self.breaker.closed
        self.breaker.succeed(permit, self.now)
        if was_closed and not self.breaker.closed:
            assert permit.probe
            self.opened_at, self.spread, self.last_probe = self.now, [], None

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        permit = self._ended(data)
        self.breaker.abandon(permit)
        if self.last_probe is not None and self.last_probe[0] is permit:
            self.last_probe = None

    def _ended(self, data: st.DataObject) -> Permit:
        return self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))

    @invariant()
    def the_spread_keeps_its_step(self) -> None:
        assert all(b - a >= STEP - ROUNDING for a, b in itertools.pairwise(self.spread))

    @invariant()
    def counts_agree(self) -> None:
        assert self.breaker.closed is (self.breaker._refusals > 0)


AnyHistory.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAnyHistory = AnyHistory.TestCase


@attrs.define
class Client:
    """A client on a fake clock: calls queue at the breaker in order, ``server`` judges each.

    ``server`` gives the verdict of a request that begins at a time, and how long it takes.
    """

    server: Callable[[float], tuple[Verdict, float]]
    concurrency: int = 50
    retry_after: float | None = None
    now: float = 0.0
    breaker: CircuitBreaker = attrs.field(init=False)
    budget: RetryBudget = attrs.field(init=False, factory=RetryBudget)
    begun: list[tuple[float, int, bool]] = attrs.field(init=False, factory=list)
    ended: dict[int, Verdict] = attrs.field(init=False, factory=dict)

    def run(self, calls: int, until: float) -> None:
        """Carry this many calls to their end, or to a time."""
        self.breaker = CircuitBreaker(self.concurrency)
        queue = [(0.0, call) for call in range(calls)]
        history = dict.fromkeys(range(calls), History())
        out: list[tuple[float, int, Permit, Verdict]] = []
        while (queue or out) and self.now < until:
            ready = queue and queue[0][0] <= self.now and len(out) < self.concurrency
            answer = self.breaker.ask(self.now) if ready else None
            if isinstance(answer, Permit):
                call = heapq.heappop(queue)[1]
                verdict, takes = self.server(self.now)
                self.begun.append((self.now, call, answer.probe))
                heapq.heappush(out, (self.now + takes, call, answer, verdict))
                continue
            moments = [out[0][0]] if out else []
            moments += [self.now + answer.seconds] if isinstance(answer, Wait) else []
            moments += [queue[0][0]] if queue and queue[0][0] > self.now else []
            self.now = max(min(moments), self.now + 1e-9)
            while out and out[0][0] <= self.now:
                _, call, permit, verdict = heapq.heappop(out)
                history[call], again = self._end(history[call], permit, verdict)
                if again is None:
                    self.ended[call] = verdict
                else:
                    heapq.heappush(queue, (again, call))

    def _end(
        self, history: History, permit: Permit, verdict: Verdict
    ) -> tuple[History, float | None]:
        if verdict is Verdict.DONE:
            self.breaker.succeed(permit, self.now)
            self.budget.succeeded(retried=history.failures > 0)
            return history, None
        refused = verdict is Verdict.REFUSED
        history = History(history.failures + (not refused), history.refusals + refused)
        step = decide(
            POLICY,
            history,
            Judgement(verdict, Charge.NO, again=True, message=""),
            retry_after=self.retry_after if refused else None,
            left=600.0,
            budget=self.budget,
            draw=0.5,
            waits=True,
            closings=self.breaker.closings(permit),
        )
        if step.closes_gate:
            self.breaker.refuse(permit, self.now, step.wait)
        else:
            self.breaker.succeed(permit, self.now)
        if isinstance(step, GiveUp):
            return history, None
        return history, 0.0 if step.closes_gate else self.now + step.wait

    def probes(self) -> list[float]:
        return [at for at, _, probe in self.begun if probe]


@pytest.mark.parametrize("takes", [0.05, 2.0, 20.0])
@pytest.mark.parametrize("retry_after", [None, 0.0, 2.0, 30.0])
def test_a_storm_of_429_at_concurrency_50(takes: float, retry_after: float | None) -> None:
    """For 10 minutes one probe goes per window, or per 5 s if slow; then every call succeeds."""
    end = 600.0
    client = Client(
        server=lambda at: (Verdict.REFUSED if at < end else Verdict.DONE, takes),
        retry_after=retry_after,
    )
    client.run(200, until=1_200.0)
    storm = [at for at in client.probes() if at < end]
    assert sum(at < end for at, _, probe in client.begun if not probe) == 50
    assert len(storm) > 5
    window = takes + (retry_after or 0.0) if takes < PROBE_EVERY else PROBE_EVERY
    assert all(b - a >= window - ROUNDING for a, b in itertools.pairwise(storm))
    assert list(client.ended.values()) == [Verdict.DONE] * 200
    assert not client.budget.empty


def test_the_backoff_of_a_storm_grows_with_the_gate() -> None:
    """Without Retry-After the windows double up to the cap, though each probe is another call."""
    client = Client(server=lambda _: (Verdict.REFUSED, 0.1))
    client.run(200, until=120.0)
    windows = [after - before - 0.1 for before, after in itertools.pairwise(client.probes())]
    assert windows[:7] == pytest.approx([0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0], abs=1e-6)


def test_the_order_of_the_calls_is_kept_through_a_storm() -> None:
    """A call that was refused keeps its place before those that came after it."""
    client = Client(
        server=lambda at: (Verdict.REFUSED if at < 60 else Verdict.DONE, 0.1),
        concurrency=4,
        retry_after=10.0,
    )
    client.run(40, until=600.0)
    assert list(client.ended) == list(range(40))


@pytest.mark.parametrize("verdict", [Verdict.FAILED, Verdict.NOT_SENT])
def test_an_outage_is_probed_every_five_seconds(verdict: Verdict) -> None:
    """Once the budget is empty a batch sends one probe per 5 s, and goes on when one succeeds."""
    end = 60.0
    client = Client(server=lambda at: (verdict if at < end else Verdict.DONE, 0.01))
    client.run(200, until=600.0)
    probes = [at for at in client.probes() if at < end]
    assert 10 <= len(probes) <= 13
    assert all(b - a >= PROBE_EVERY - ROUNDING for a, b in itertools.pairwise(probes))
    assert len(client.ended) == 200
    assert sum(at < end for at, _, _ in client.begun) <= 50 + 10 + 13
    assert list(client.ended.values()) == [Verdict.DONE] * 200
