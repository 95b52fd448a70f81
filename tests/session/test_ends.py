"""Every call that was queued ends once: done, failed or cancelled; a loss is warned of."""

import asyncio
import logging
import os
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anyio
import pytest

from imagen_async import (
    AsyncImagen,
    Cancelled,
    Charge,
    ConfigurationError,
    Done,
    Event,
    Failed,
    ForkedClientError,
    GenerationRequest,
    ImagenError,
    Limits,
    Queued,
)
from imagen_async.emulator import Emulator
from imagen_async.emulator.faults import FaultRule
from imagen_async.policy.retry import RetryBudget
from imagen_async.storage.stores import MemoryStore
from tests.chaos.faults import FREE
from tests.chaos.harness import QUICK, Watch, chaos
from tests.chaos.server import fine
from tests.scripted import Answer, Gateway, Post, answering, failed, scripted
from tests.virtual import virtually

PROMPT = "a private prompt"
LINK = b'{"data": [{"url": "https://files.test/x.png?signature=canary"}]}'
PHASES = {
    "gate": Charge.NO,
    "queue": Charge.NO,
    "connect": Charge.NO,
    "backoff": Charge.NO,
    "flight": Charge.MAYBE,
    "body": Charge.MAYBE,
    "saving": Charge.YES,
    "download": Charge.YES,
}


async def for_ever(*_: Any) -> Any:
    await asyncio.sleep(100_000)


@asynccontextmanager
async def stuck(phase: str, watch: Any) -> AsyncIterator[tuple[AsyncImagen, Any]]:
    """Give a client and a call that waits in a phase of its life."""

    async def handler(post: Post) -> Answer:
        if phase == "backoff":
            return failed({"retry-after": "50"})
        if phase == "gate":
            return Answer(429, headers={"retry-after": "50"})
        if phase != "connect":
            post.send()
        if phase == "body":
            return Answer(pieces=[(0, b'{"data": '), (1000, b"[]}")])
        if phase == "download":
            return Answer(200, LINK)
        if phase == "saving":
            return post.image()
        return await for_ever()

    with patch.object(Gateway, "get", for_ever), patch.object(MemoryStore, "keep", for_ever):
        options = {"limits": Limits(concurrency=1), "on_event": watch}
        async with scripted(handler, **options) as (_, imagen):
            other = None
            if phase == "queue":
                other = asyncio.ensure_future(imagen.generate("other"))
                await asyncio.sleep(1)

            def call() -> Awaitable[Any]:
                if phase == "download":
                    return imagen.generate_to("nowhere", PROMPT, timeout=500)
                return imagen.generate(PROMPT, timeout=500)

            yield imagen, call
            if other is not None:
                other.cancel()
                await asyncio.gather(other, return_exceptions=True)


@pytest.mark.parametrize("how", ["task", "scope", "timeout"])
@pytest.mark.parametrize("phase", PHASES)
@virtually
async def test_given_up_in_each_phase(
    phase: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A call that is cancelled ends as Cancelled with its charge, and warns iff it was sent."""
    watch, charge = Watch(), PHASES[phase]
    async with stuck(phase, watch) as (imagen, call):
        if how == "scope":
            with anyio.move_on_after(2) as scope:
                await call()
            assert scope.cancelled_caught
        elif how == "timeout":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(call(), 2)
        else:
            task = asyncio.ensure_future(call())
            await asyncio.sleep(2)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        end = watch.ends[-1]
        assert isinstance(end, Cancelled)
        assert (end.charge, end.request.prompt) == (charge, PROMPT)
        assert [image.url for image in end.images] == (
            ["https://files.test/x.png?signature=canary"] if phase == "download" else []
        )
        assert imagen.stats().dropped == (charge is not Charge.NO)
    assert watch.wrong == []
    warnings = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert len(warnings) == (charge is not Charge.NO) + (phase == "queue")
    for warning in warnings:
        said = warning.getMessage()
        assert "charged; look into" in said
        assert "idempotency key" in said
        assert PROMPT not in said
        assert "canary" not in said
        assert "\n" not in said
    if warnings and phase != "queue":
        assert end.idempotency_key in warnings[0].getMessage()
        assert ("Cancelled event" in warnings[0].getMessage()) is bool(end.images)


@virtually
async def test_what_an_earlier_run_sent_is_no_loss_of_this_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A call given up before this run sent it warns of nothing, whatever it cost before."""
    watch = Watch()
    async with stuck("queue", watch) as (imagen, _):
        request = GenerationRequest(PROMPT)
        with anyio.move_on_after(2):
            await imagen._core.generate(request, store=MemoryStore(), charge=Charge.MAYBE)
        end = watch.ends[-1]
        assert isinstance(end, Cancelled)
        assert end.charge is Charge.MAYBE
        assert imagen.stats().dropped == 0
        assert caplog.records == []


@virtually
async def test_thrown_away() -> None:
    """A call whose loop was closed under it, and which is collected, ends as Cancelled too."""
    watch = Watch()
    async with stuck("flight", watch) as (imagen, call):
        task = asyncio.ensure_future(call())
        await asyncio.sleep(2)
        task.get_coro().close()
        assert [type(end) for end in watch.ends] == [Cancelled]
        assert imagen.stats().dropped == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert watch.wrong == []


@pytest.mark.parametrize("phase", PHASES)
@virtually
async def test_closing_is_a_failure(phase: str, caplog: pytest.LogCaptureFixture) -> None:
    """A call that the closing client gives up has an error to say so, and ends as Failed."""
    watch = Watch()
    async with stuck(phase, watch) as (imagen, call):
        task = asyncio.ensure_future(call())
        await asyncio.sleep(2)
        await imagen._core.aclose(3)
        with pytest.raises(ImagenError):
            await task
        assert isinstance(watch.ends[-1], Failed)
        assert watch.ends[-1].error is task.exception()
    assert watch.wrong == []


async def test_cancelled_at_every_await() -> None:
    """At whatever turn of the loop it is cancelled, the call ends once and knows its charge."""
    watch = Watch()
    options = {"limits": Limits(concurrency=2), "on_event": watch}
    async with chaos(options=options) as (server, imagen):
        await imagen.generate("warm")
        for count in range(200):
            server.script[f"p{count}"] = deque([FREE["500"], fine])
            imagen._core._runner._budget._tokens = RetryBudget.CAPACITY
            task = asyncio.ensure_future(imagen.generate(f"p{count}"))
            for _ in range(count):
                await asyncio.sleep(0)
            reached = task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if not reached:
                break
        await asyncio.sleep(0.01)
        assert watch.wrong == []
        charges = server.ledger.charges
    cancelled = [end for end in watch.ends if isinstance(end, Cancelled)]
    assert {end.charge for end in cancelled} >= {Charge.NO, Charge.MAYBE}
    assert all(end.charge is not Charge.NO for end in cancelled if charges[end.request.prompt])
    assert imagen.stats().dropped == sum(end.charge is not Charge.NO for end in cancelled)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
@pytest.mark.parametrize("at", ["Queued", "Sent", "Retrying", "Throttled", "Done", "Failed"])
@virtually
async def test_a_hook_that_interrupts(at: str, kind: type[BaseException]) -> None:
    """An interrupt out of one hook ends the call; all hooks are told of it, and once."""
    watches = Watch(), Watch()

    def interrupt(event: Event) -> None:
        if type(event).__name__ == at:
            raise kind

    answers = answering(failed(), Answer(429), Answer(400) if at == "Failed" else None)
    hooks = [watches[0], interrupt, watches[1]]
    async with scripted(answers, on_event=hooks) as (_, imagen):
        with pytest.raises(kind):
            await imagen.generate(PROMPT)
    for watch in watches:
        assert watch.wrong == []
        assert len(watch.calls) == 1
    assert watches[0].calls == watches[1].calls


@virtually
async def test_an_interrupt_as_the_call_is_cancelled() -> None:
    """A hook that interrupts at the end itself makes no second end of it."""
    watch = Watch()

    def interrupt(event: Event) -> None:
        if isinstance(event, Cancelled):
            raise asyncio.CancelledError("mine")

    async with stuck("flight", [watch, interrupt]) as (_, call):
        task = asyncio.ensure_future(call())
        await asyncio.sleep(2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError, match="mine"):
            await task
    assert watch.wrong == []


@virtually
async def test_cancelled_between_done_and_the_caller() -> None:
    """A call that is cancelled once it told Done still hands its images to the caller."""
    watch = Watch()
    caller: Any = None

    def cancel(event: Event) -> None:
        if isinstance(event, Done):
            caller.cancel()

    async with scripted(answering(), on_event=[watch, cancel]) as (_, imagen):

        async def work() -> Any:
            generation = await imagen.generate(PROMPT)
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                return generation

        caller = asyncio.ensure_future(work())
        assert (await caller).images
        assert imagen.stats().dropped == 0
    assert [type(end) for end in watch.ends] == [Done]
    assert watch.wrong == []


@virtually
async def test_a_stream_that_is_left(caplog: pytest.LogCaptureFixture) -> None:
    """Leaving generate_many ends each call once; what is dropped is what is warned of."""
    watch = Watch()

    async def steady(post: Post) -> Answer:
        post.send()
        await asyncio.sleep(random.uniform(1, 9))
        return Answer(504) if int(post.prompt) % 5 == 0 else post.image()

    limits = Limits(concurrency=5)
    for seconds in range(12):
        caplog.clear()
        async with scripted(steady, limits=limits, on_event=watch) as (_, imagen):
            async with imagen.generate_many(map(str, range(100)), ordered=True) as outcomes:
                await asyncio.sleep(seconds)
                async for _ in outcomes:
                    break
            warnings = [each for each in caplog.records if each.levelno == logging.WARNING]
            assert len(warnings) == imagen.stats().dropped > 0
        assert watch.wrong == []
    assert {type(end) for end in watch.ends} == {Done, Failed, Cancelled}


@pytest.mark.parametrize("how", ["left", "stopped", "cancelled", "closed"])
async def test_a_batch_that_ends_early(tmp_path: Path, how: str) -> None:
    """However a batch ends, each of its calls has ended once; a resumed download is no call."""
    watch = Watch()
    chances = {"504": 0.2, "429": 0.2, "file_503_first:4": 0.5}
    faults = [FaultRule(fault=name, probability=chance) for name, chance in chances.items()]
    options = {"limits": Limits(concurrency=4), "retry": QUICK, "allow_private": True}
    with Emulator(latency=0.02, draw="tiny", faults=faults) as gateway:
        async with AsyncImagen(base_url=gateway.base_url, on_event=watch, **options) as imagen:
            with anyio.CancelScope() as scope:
                async with imagen.batch(map(str, range(200)), out=tmp_path / "out") as run:
                    async for _ in run:
                        if len(watch.ends) < 12:
                            continue
                        if how == "left":
                            break
                        if how == "stopped":
                            run.stop()
                        elif how == "cancelled":
                            scope.cancel()
                        else:
                            await imagen._core.aclose(0)
            assert watch.wrong == []
            assert len(watch.ends) < 150
            assert imagen.stats().dropped == sum(
                isinstance(end, Cancelled) and end.charge is not Charge.NO for end in watch.ends
            )
        gateway.gateway.plan.clear()
        async with AsyncImagen(base_url=gateway.base_url, on_event=watch, **options) as imagen:
            async with imagen.batch([], out=tmp_path / "out") as run:
                pass
            async with imagen.batch(map(str, range(12)), out=tmp_path / "out") as run:
                async for _ in run:
                    pass
    assert watch.wrong == []
    resumed = [call for call in watch.calls.values() if not isinstance(call[0], Queued)]
    assert resumed


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_ends_no_call_of_the_parent(tmp_path: Path) -> None:
    """A forked child that throws the parent's calls away tells nothing of them, nor do new ones."""
    watch, told = Watch(), tmp_path / "told"

    async def main() -> None:
        async def slow(post: Post) -> Answer:
            post.send()
            await asyncio.sleep(0.2)
            return post.image()

        async with scripted(slow, on_event=watch) as (_, imagen):
            task = asyncio.ensure_future(imagen.generate(PROMPT))
            await asyncio.sleep(0.1)
            begun = len(watch.calls[min(watch.calls)])
            pid = os.fork()
            if pid == 0:
                try:
                    task.get_coro().close()
                    new = imagen.generate(PROMPT)
                    with pytest.raises(ForkedClientError):
                        new.send(None)
                    told.write_text(f"{len(watch.calls)} {len(*watch.calls.values()) - begun}")
                finally:
                    os._exit(0)
            os.waitpid(pid, 0)
            await task

    asyncio.run(main())
    assert told.read_text() == "1 0"
    assert [type(end) for end in watch.ends] == [Done]
    assert watch.wrong == []


@virtually
async def test_ids_tell_calls_apart() -> None:
    """Calls that share an Idempotency-Key, a client or a listener differ in their id."""
    watch = Watch()
    for _ in range(2):
        async with scripted(answering(), on_event=watch) as (_, imagen):
            await asyncio.gather(*(imagen.generate("p", idempotency_key="k") for _ in range(3)))
    assert watch.wrong == []
    assert len(watch.ends) == 6
    assert {end.idempotency_key for end in watch.ends} == {"k"}


@virtually
async def test_several_listeners(caplog: pytest.LogCaptureFixture) -> None:
    """Each of several functions is told all, in turn, whatever the others raise."""
    order: list[int] = []

    def broken(_: Event) -> None:
        order.append(1)
        raise ZeroDivisionError("the second")

    hooks = [lambda _: order.append(0), broken, lambda _: order.append(2)]
    async with scripted(answering(), on_event=iter(hooks)) as (_, imagen):
        await imagen.generate("p")
        await imagen.generate("q")
    assert order == [0, 1, 2] * 6
    assert caplog.text.count("on_event raised") == 6


@pytest.mark.parametrize("wrong", [7, "print", [print, None]])
def test_listeners_that_cannot_be_called(wrong: Any) -> None:
    """What is no function is refused when the client is made."""
    with pytest.raises(ConfigurationError, match="on_event must be"):
        AsyncImagen(base_url="https://gateway.test/v1", on_event=wrong)
