"""The gate: slots, order, and giving everything back."""

import asyncio
import random

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagen_async import Limits
from imagen_async.policy.circuit import Permit
from imagen_async.session.gate import EARLY, Gate
from tests import virtual
from tests.virtual import now, virtually


@virtually
async def test_no_more_than_concurrency_enter() -> None:
    """At most ``concurrency`` calls are inside at once, and all get in, in their order."""
    gate = Gate(Limits(concurrency=3))
    inside, peak, order = 0, 0, []

    async def call(number: int) -> None:
        nonlocal inside, peak
        await gate.enter()
        order.append(number)
        inside += 1
        peak = max(peak, inside)
        assert gate.in_flight == inside
        await asyncio.sleep(1)
        inside -= 1
        gate.leave()

    await asyncio.gather(*map(call, range(20)))
    assert (peak, inside, gate.in_flight, gate.queued) == (3, 0, 0, 0)
    assert order == list(range(20))


@virtually
async def test_entering_at_once() -> None:
    """The quick way in is open only if nobody has to wait, and books nothing when it is shut."""
    gate = Gate(Limits(concurrency=2, requests_per_minute=60))
    first = gate.enter_at_once()
    assert isinstance(first, Permit)
    assert gate.enter_at_once() is None  # the pace
    await asyncio.sleep(1)
    assert isinstance(gate.enter_at_once(), Permit)
    await asyncio.sleep(1)
    assert gate.enter_at_once() is None  # the slots
    gate.leave()
    gate.refuse(first, 5)
    assert gate.enter_at_once() is None  # the valve
    await asyncio.sleep(5)
    probe = gate.enter_at_once()
    assert probe is not None
    assert probe.probe


@virtually
async def test_nobody_passes_a_queue() -> None:
    """A newcomer does not slip past the calls that wait."""
    gate = Gate(Limits(concurrency=1))
    await gate.enter()
    waiting = asyncio.ensure_future(gate.enter())
    await asyncio.sleep(0)
    gate.leave()
    assert gate.enter_at_once() is None
    await waiting
    gate.leave()


@virtually
async def test_nobody_passes_those_who_wait_for_the_valve() -> None:
    """In the moment in which the gate may be tried, the first in the queue tries it."""
    gate = Gate(Limits(concurrency=2))
    grant = await gate.enter()
    gate.refuse(grant, 10)
    gate.leave()
    waiting = asyncio.ensure_future(gate.enter())
    await asyncio.sleep(1)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, virtual.VirtualLoop)
    loop.jump(20)
    assert gate.enter_at_once() is None
    assert (await waiting).probe


@virtually
async def test_an_abandoned_probe_frees_the_next() -> None:
    """When a probe ends without an answer, the next call probes at once."""
    gate = Gate(Limits(concurrency=4))
    grant = await gate.enter()
    gate.refuse(grant, 10)
    gate.leave()
    probe, behind = [asyncio.ensure_future(gate.enter()) for _ in range(2)]
    await asyncio.sleep(11)
    assert (await probe).probe
    assert not behind.done()
    began = now()
    gate.abandon(probe.result())
    gate.leave()
    assert (await behind).probe
    assert now() - began < 0.01
    gate.leave()


@virtually
async def test_a_success_opens_for_those_who_wait() -> None:
    """The answer of a probe wakes the queue, which enters spread over a second."""
    gate = Gate(Limits(concurrency=10))
    grant = await gate.enter()
    gate.refuse(grant, 3)
    gate.leave()
    calls = [asyncio.ensure_future(gate.enter()) for _ in range(10)]
    await asyncio.sleep(4)
    (probe,) = [call for call in calls if call.done()]
    gate.succeed(probe.result())
    await asyncio.sleep(0.55)
    assert 5 <= sum(call.done() for call in calls) <= 7
    await asyncio.sleep(0.6)
    assert all(call.done() for call in calls)
    for _ in calls:
        gate.leave()


@virtually
async def test_only_the_closing_call_is_told_so() -> None:
    """Of many refusals at once one closes the gate."""
    gate = Gate(Limits(concurrency=5))
    grants = [await gate.enter() for _ in range(5)]
    assert [gate.refuse(grant, 1) for grant in grants] == [True] + [False] * 4


@given(
    concurrency=st.integers(1, 4),
    rate=st.sampled_from([None, 60.0, 6000.0]),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=40, deadline=None)
def test_everything_is_given_back(concurrency: int, rate: float | None, seed: int) -> None:
    """Whatever calls are cancelled, refused or answered, slots and queue end as they began."""

    async def main() -> None:
        dice = random.Random(seed)
        gate = Gate(Limits(concurrency=concurrency, requests_per_minute=rate))
        inside = 0

        async def call() -> None:
            nonlocal inside
            grant = await gate.enter()
            inside += 1
            assert inside <= concurrency
            try:
                await asyncio.sleep(dice.random() * 2)
                end = dice.choice([gate.succeed, gate.abandon, lambda g: gate.refuse(g, 1)])
                end(grant)
            except asyncio.CancelledError:
                gate.abandon(grant)
                raise
            finally:
                inside -= 1
                gate.leave()

        tasks = [asyncio.ensure_future(call()) for _ in range(30)]
        for task in tasks:
            await asyncio.sleep(dice.random() / 2)
            if dice.random() < 0.4:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (gate.in_flight, gate.queued, inside) == (0, 0, 0)
        with anyio.fail_after(3600):
            for _ in range(concurrency):
                gate.succeed(await gate.enter())
        assert gate.in_flight == concurrency

    virtual.run(main())


@pytest.mark.parametrize("wait", ["slot", "pace", "valve"])
@virtually
async def test_a_cancelled_wait(wait: str) -> None:
    """A call cancelled in any wait of the gate leaves the place to the next one."""
    gate = Gate(Limits(concurrency=1, requests_per_minute=60 if wait == "pace" else None))
    grant = await gate.enter()
    if wait != "slot":
        gate.leave()
    if wait == "valve":
        gate.refuse(grant, 2)
    waiting, behind = [asyncio.ensure_future(gate.enter()) for _ in range(2)]
    await asyncio.sleep(0.5)
    waiting.cancel()
    if wait == "slot":
        gate.leave()
    began = now()
    await behind
    assert now() - began <= 2
    gate.leave()
    assert (gate.in_flight, gate.queued) == (0, 0)


@virtually
async def test_a_gate_that_closes_in_the_last_moment() -> None:
    """A call whose pace is due while the gate closes waits for the gate, and probes."""
    gate = Gate(Limits(concurrency=3, requests_per_minute=60))
    first = await gate.enter()
    waiting = asyncio.ensure_future(gate.enter())
    await asyncio.sleep(1 - EARLY / 2)
    gate.refuse(first, 30)
    await asyncio.sleep(29)
    assert not waiting.done()
    await asyncio.sleep(2)
    assert (await waiting).probe


@virtually
async def test_cancelled_in_the_last_moment() -> None:
    """A call cancelled right before its turn leaves slot and queue as they were."""
    gate = Gate(Limits(concurrency=1, requests_per_minute=60))
    await gate.enter()
    gate.leave()
    waiting = asyncio.ensure_future(gate.enter())
    await asyncio.sleep(1 - EARLY / 2)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (gate.in_flight, gate.queued) == (0, 0)
    await gate.enter()
