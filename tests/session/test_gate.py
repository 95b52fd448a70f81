"""The gate: slots, order, and giving everything back."""

import asyncio
import random

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagen_async import Limits
from imagen_async.policy.circuit import Permit
from imagen_async.session.gate import EARLY, LocalGate
from tests import virtual
from tests.virtual import now, virtually


@virtually
async def test_no_more_than_concurrency_enter() -> None:
    """At most ``concurrency`` calls are inside at once, and all get in, in their order."""
    gate = LocalGate(Limits(concurrency=3))
    inside, peak, order = 0, 0, []

    async def call(number: int) -> None:
        nonlocal inside, peak
        permit = await gate.enter()
        order.append(number)
        inside += 1
        peak = max(peak, inside)
        assert gate.in_flight == inside
        await asyncio.sleep(1)
        inside -= 1
        gate.leave(permit)

    await asyncio.gather(*map(call, range(20)))
    assert (peak, inside, gate.in_flight, gate.queued) == (3, 0, 0, 0)
    assert order == list(range(20))


@virtually
async def test_entering_at_once() -> None:
    """The quick way in is open only if nobody has to wait, and books nothing when it is shut."""
    gate = LocalGate(Limits(concurrency=2, requests_per_minute=60))
    first = gate.enter_at_once()
    assert isinstance(first, Permit)
    assert gate.enter_at_once() is None  # the pace
    await asyncio.sleep(1)
    assert isinstance(gate.enter_at_once(), Permit)
    await asyncio.sleep(1)
    assert gate.enter_at_once() is None  # the slots
    await gate.refuse(first, 5)
    gate.leave(first)
    assert gate.enter_at_once() is None  # the circuit breaker
    await asyncio.sleep(5)
    probe = gate.enter_at_once()
    assert probe is not None
    assert probe.probe


@virtually
async def test_nobody_passes_a_queue() -> None:
    """A newcomer does not slip past the calls that wait."""
    gate = LocalGate(Limits(concurrency=1))
    permit = await gate.enter()
    waiting = asyncio.ensure_future(gate.enter())
    await asyncio.sleep(0)
    gate.leave(permit)
    assert gate.enter_at_once() is None
    gate.leave(await waiting)


@virtually
async def test_nobody_passes_those_who_wait_for_the_valve() -> None:
    """In the moment in which the gate may be tried, the first in the queue tries it."""
    gate = LocalGate(Limits(concurrency=2))
    permit = await gate.enter()
    await gate.refuse(permit, 10)
    gate.leave(permit)
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
    gate = LocalGate(Limits(concurrency=4))
    permit = await gate.enter()
    await gate.refuse(permit, 10)
    gate.leave(permit)
    probe, behind = [asyncio.ensure_future(gate.enter()) for _ in range(2)]
    await asyncio.sleep(11)
    assert (await probe).probe
    assert not behind.done()
    began = now()
    gate.leave(probe.result())
    assert (await behind).probe
    assert now() - began < 0.01
    gate.leave(behind.result())


@virtually
async def test_a_success_opens_for_those_who_wait() -> None:
    """The answer of a probe wakes the queue, which enters spread over a second."""
    gate = LocalGate(Limits(concurrency=10))
    permit = await gate.enter()
    await gate.refuse(permit, 3)
    gate.leave(permit)
    calls = [asyncio.ensure_future(gate.enter()) for _ in range(10)]
    await asyncio.sleep(4)
    (probe,) = [call for call in calls if call.done()]
    gate.answered(probe.result())
    await asyncio.sleep(0.55)
    assert 5 <= sum(call.done() for call in calls) <= 7
    await asyncio.sleep(0.6)
    assert all(call.done() for call in calls)
    for call in calls:
        gate.leave(call.result())


@virtually
async def test_only_the_closing_call_is_told_so() -> None:
    """Of many refusals at once one closes the gate."""
    gate = LocalGate(Limits(concurrency=5))
    permits = [await gate.enter() for _ in range(5)]
    assert [await gate.refuse(permit, 1) for permit in permits] == [True] + [False] * 4


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
        gate = LocalGate(Limits(concurrency=concurrency, requests_per_minute=rate))
        inside = 0

        async def call() -> None:
            nonlocal inside
            permit = await gate.enter()
            inside += 1
            assert inside <= concurrency
            try:
                await asyncio.sleep(dice.random() * 2)
                end = dice.choice(["answered", "refused", "broken"])
                if end == "answered":
                    gate.answered(permit)
                elif end == "refused":
                    await gate.refuse(permit, 1)
            finally:
                inside -= 1
                gate.leave(permit)

        tasks = [asyncio.ensure_future(call()) for _ in range(30)]
        for task in tasks:
            await asyncio.sleep(dice.random() / 2)
            if dice.random() < 0.4:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (gate.in_flight, gate.queued, inside) == (0, 0, 0)
        with anyio.fail_after(3600):
            for _ in range(concurrency):
                gate.answered(await gate.enter())
        assert gate.in_flight == concurrency

    virtual.run(main())


@pytest.mark.parametrize("wait", ["slot", "pace", "breaker"])
@virtually
async def test_a_cancelled_wait(wait: str) -> None:
    """A call cancelled in any wait of the gate leaves the place to the next one."""
    gate = LocalGate(Limits(concurrency=1, requests_per_minute=60 if wait == "pace" else None))
    permit = await gate.enter()
    if wait == "breaker":
        await gate.refuse(permit, 2)
    if wait != "slot":
        gate.leave(permit)
    waiting, behind = [asyncio.ensure_future(gate.enter()) for _ in range(2)]
    await asyncio.sleep(0.5)
    waiting.cancel()
    if wait == "slot":
        gate.leave(permit)
    began = now()
    await behind
    assert now() - began <= 2
    gate.leave(behind.result())
    assert (gate.in_flight, gate.queued) == (0, 0)


@virtually
async def test_a_gate_that_closes_in_the_last_moment() -> None:
    """A call whose pace is due while the gate closes waits for the gate, and probes."""
    gate = LocalGate(Limits(concurrency=3, requests_per_minute=60))
    first = await gate.enter()
    waiting = asyncio.ensure_future(gate.enter())
    await asyncio.sleep(1 - EARLY / 2)
    await gate.refuse(first, 30)
    await asyncio.sleep(29)
    assert not waiting.done()
    await asyncio.sleep(2)
    assert (await waiting).probe


@virtually
async def test_cancelled_in_the_last_moment() -> None:
    """A call cancelled right before its turn leaves slot and queue as they were."""
    gate = LocalGate(Limits(concurrency=1, requests_per_minute=60))
    gate.leave(await gate.enter())
    waiting = asyncio.ensure_future(gate.enter())
    await asyncio.sleep(1 - EARLY / 2)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (gate.in_flight, gate.queued) == (0, 0)
    await gate.enter()
