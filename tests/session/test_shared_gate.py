"""A gate of several processes in place of a client's own: its steps take time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import anyio
import attrs
import pytest

from imagen_async import ImagenError, Limits, RefusedError
from imagen_async.policy.circuit import Permit
from imagen_async.session.core import Core
from imagen_async.session.gate import LocalGate
from imagen_async.session.patience import SharedPatience
from imagen_async.storage.stores import MemoryStore
from tests.scripted import Answer, Gateway, Post, answering
from tests.virtual import virtually


class SharedGate:
    """Counts the permits that are out, each step a round trip away.

    Args:
        full: Whether nobody is let in.
        late: Seconds that a permit takes on its way back, whatever happens meanwhile.
    """

    def __init__(self, *, full: bool = False, late: float = 0.0) -> None:
        self.local = LocalGate(Limits(concurrency=2))
        self.queued = self.in_flight = self.out = self.bindings = 0
        self.answers = 0
        self.full = full
        self.late = late

    def bind(self) -> None:
        self.local.bind()
        self.bindings += 1

    def enter_at_once(self) -> None:
        return None

    async def enter(self) -> Permit:
        if self.full:
            raise RefusedError("The fleet is full.")
        permit = await self.local.enter()
        self.out += 1
        try:
            await asyncio.sleep(0)
        except BaseException:
            await self.leave(permit)
            raise
        if self.late:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(self.late)
        return permit

    def answered(self, permit: Permit) -> None:
        self.answers += 1
        self.local.answered(permit)

    async def closings(self, permit: Permit) -> int:
        await asyncio.sleep(0)
        return await self.local.closings(permit)

    async def refuse(self, permit: Permit, wait: float) -> bool:
        await asyncio.sleep(0)
        return await self.local.refuse(permit, wait)

    def leave(self, permit: Permit) -> Coroutine[Any, Any, None]:
        async def back() -> None:
            for _ in range(3):
                await asyncio.sleep(0)
            self.out -= 1
            self.local.leave(permit)

        return back()


def client(gateway: Gateway, gate: SharedGate) -> Any:
    imagen = gateway.client()
    imagen._core = Core(
        attrs.evolve(imagen._core.config),
        gate=gate,
        transport=lambda *_: gateway,  # type: ignore[arg-type, return-value]
    )
    return imagen


@virtually
async def test_a_shared_gate_bounds_and_hears() -> None:
    """Calls enter, wait out a refusal and leave at a gate whose every step takes a round trip."""
    gate, gateway = SharedGate(), Gateway(answering(Answer(429, headers={"retry-after": "3"})))
    async with client(gateway, gate) as imagen:
        await asyncio.gather(*(imagen.generate(str(number)) for number in range(6)))
    assert (gateway.peak, gate.answers, gate.out, gate.bindings) == (2, 6, 0, 1)
    assert gateway.times[-1] >= gateway.times[0] + 3


@virtually
async def test_cancelled_at_every_step_of_a_shared_gate() -> None:
    """Wherever a call is cancelled, its permit goes back whole before the cancellation goes on."""

    async def handler(post: Post) -> Answer:
        if post.number == 1:
            return Answer(429, headers={"retry-after": "0.01"})
        post.send()
        await asyncio.sleep(0)
        return post.image()

    gate, cancelled = SharedGate(), 0
    async with client(Gateway(handler), gate) as imagen:
        for turns in range(400):
            task = asyncio.ensure_future(imagen.generate(f"p{turns}"))
            for _ in range(turns):
                await asyncio.sleep(0)
            reached = task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert (gate.out, gate.local.in_flight, gate.local.queued) == (0, 0, 0)
            if not reached:
                break
            cancelled += 1
    assert cancelled > 10


@virtually
async def test_a_shared_gate_that_lets_nobody_in() -> None:
    """What a gate raises instead of a permit is the end of the call; nothing is sent."""
    gateway = Gateway(answering())
    async with client(gateway, SharedGate(full=True)) as imagen:
        with pytest.raises(ImagenError, match="fleet is full"):
            await imagen.generate("p")
        assert imagen.stats().failed == 1
    assert gateway.posts == []


@virtually
async def test_a_permit_that_comes_too_late_goes_back() -> None:
    """A call whose time ended while its permit was on the way sends nothing and returns it."""
    gate, gateway = SharedGate(late=10.0), Gateway(answering())
    async with client(gateway, gate) as imagen:
        with pytest.raises(ImagenError, match="ran out in the queue"):
            await imagen.generate("p", timeout=5)
    assert (gateway.posts, gate.out, gate.local.in_flight) == ([], 0, 0)


@virtually
async def test_a_permit_that_comes_in_a_pause_goes_back() -> None:
    """A call that is let in while its run is paused gives the place back, and is sent later."""
    gate, gateway, patience = SharedGate(late=10.0), Gateway(answering()), SharedPatience()
    async with client(gateway, gate) as imagen:
        call = asyncio.ensure_future(
            imagen._core.generate(
                imagen._request("p", {}), store=MemoryStore(), waits=True, patience=patience
            )
        )
        await asyncio.sleep(5)
        patience.pause()
        await asyncio.sleep(10)
        assert (gateway.posts, gate.out, gate.local.in_flight) == ([], 0, 0)
        patience.resume()
        await call
    assert (len(gateway.posts), gate.out, gate.local.in_flight) == (1, 0, 0)
