"""A stream that is cancelled from outside never looks as if it had come to its end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from imagen_async import AsyncImagen, Cancelled, Done, Event, Limits, Outcome
from imagen_async.emulator import Emulator
from imagen_async.session.stream import Stream
from tests.chaos.harness import Watch
from tests.scripted import Answer, Post, answering, scripted
from tests.virtual import virtually

PROMPTS = [str(number) for number in range(40)]
WIDTH = 4

Handle = Callable[[Outcome], Awaitable[None]]
Way = Callable[[Any, Handle], Awaitable[None]]


async def steady(post: Post) -> Answer:
    """Answer on full seconds, so that answers and deadlines meet in one turn of the loop."""
    post.send()
    await asyncio.sleep(1 + int(post.prompt) % 3)
    return post.image()


async def iterate(stream: Any, handle: Handle) -> None:
    async for outcome in stream:
        await handle(outcome)


async def take(stream: Any, handle: Handle) -> None:
    while taken := await stream.take(3):
        for outcome in taken:
            await handle(outcome)


async def wait(stream: Any, handle: Handle) -> None:
    while await stream.wait():
        for outcome in stream.pop(2):
            await handle(outcome)
            stream.release(1)


@asynccontextmanager
async def deadline(seconds: float) -> AsyncIterator[None]:
    with anyio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise TimeoutError


@asynccontextmanager
async def failing(seconds: float) -> AsyncIterator[None]:
    with anyio.fail_after(seconds):
        yield


@asynccontextmanager
async def group(seconds: float) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:

        async def end() -> None:
            await asyncio.sleep(seconds)
            tasks.cancel_scope.cancel()

        tasks.start_soon(end)
        yield
        tasks.cancel_scope.cancel()
        return
    raise TimeoutError


@asynccontextmanager
async def native(seconds: float) -> AsyncIterator[None]:
    task = asyncio.current_task()
    assert task is not None
    handle = asyncio.get_running_loop().call_later(seconds, task.cancel)
    try:
        yield
    except asyncio.CancelledError:
        task.uncancel()
        raise TimeoutError from None
    finally:
        handle.cancel()


async def at_once(_: Outcome) -> None:
    pass


async def turning(_: Outcome) -> None:
    await asyncio.sleep(0)


async def shielded(_: Outcome) -> None:
    with anyio.CancelScope(shield=True):
        await asyncio.sleep(0.5)


async def briefly(_: Outcome) -> None:
    with anyio.CancelScope(shield=True):
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("handle", [at_once, turning, shielded])
@pytest.mark.parametrize("way", [iterate, take, wait])
@pytest.mark.parametrize("around", [deadline, failing, group, asyncio.timeout, native])
@virtually
async def test_cut_off_is_not_the_end(
    around: Callable[[float], AbstractAsyncContextManager[Any]],
    way: Way,
    handle: Handle,
    ordered: bool,
) -> None:
    """Whatever cancels the stream, and whenever, its reader is told by the cancellation."""
    ends = []
    for seconds in (0, 0.5, 2, 5, 200):
        watch = Watch()
        read: list[int] = []
        ended = cut = False

        async def note(outcome: Outcome, read: list[int] = read) -> None:
            read.append(outcome.index)
            await handle(outcome)

        options = {"limits": Limits(concurrency=WIDTH), "on_event": watch}
        async with scripted(steady, **options) as (_, imagen):
            try:
                async with around(seconds), imagen.generate_many(PROMPTS, ordered=ordered) as found:
                    await way(found, note)
                    ended = True
            except TimeoutError:
                cut = True
            dropped = imagen.stats().dropped
        assert ended is (sorted(read) == list(range(len(PROMPTS))))
        assert ended or cut
        assert len(set(read)) == len(read)
        assert watch.wrong == []
        sent = [end for end in watch.ends if not (isinstance(end, Cancelled) and not end.charge)]
        if way is iterate:  # the others hold outcomes that they have not looked at
            assert len(sent) == len(read) + dropped
        ends.append(ended)
    assert ends == [False] * 4 + [True]


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("way", [iterate, take, wait])
@virtually
async def test_cut_off_as_an_outcome_comes(way: Way, ordered: bool) -> None:
    """A scope that is cancelled in the turn in which the reader wakes is not passed over."""
    # No task that is about to run is cancelled at once: the workers die before the reader hears.
    for most in range(1, 30):
        ended = False
        done = 0

        def count(event: Event, most: int = most) -> None:
            nonlocal done
            done += isinstance(event, Done)
            if done == most and isinstance(event, Done):
                asyncio.get_running_loop().call_soon(scope.cancel)

        options = {"limits": Limits(concurrency=WIDTH), "on_event": count}
        async with scripted(steady, **options) as (_, imagen):
            with anyio.CancelScope() as scope:
                async with imagen.generate_many(PROMPTS, ordered=ordered) as outcomes:
                    await way(outcomes, at_once)
                    ended = True
        assert scope.cancelled_caught
        assert not ended


@pytest.mark.parametrize("ordered", [False, True])
@virtually
async def test_ready_outcomes_come_first(ordered: bool) -> None:
    """What had settled when the scope was cancelled is still read, then each read raises."""
    async with scripted(steady, limits=Limits(concurrency=WIDTH)) as (_, imagen):
        with anyio.CancelScope() as scope:
            async with imagen.generate_many(PROMPTS, ordered=ordered) as outcomes:
                with anyio.CancelScope(shield=True):
                    await asyncio.sleep(1.5)
                    scope.cancel()
                    await asyncio.sleep(1)
                    read = []
                    with pytest.raises(asyncio.CancelledError):  # noqa: PT012
                        async for outcome in outcomes:
                            read.append(outcome.index)
                    for again in (anext(outcomes), outcomes.take(9), outcomes.wait()):
                        with pytest.raises(asyncio.CancelledError):
                            await again
                assert read == ([0] if ordered else [0, 3])
                await asyncio.sleep(1)
        assert scope.cancelled_caught
        # What came and waits for its turn counts, and so does what was on its way.
        assert imagen.stats().dropped == imagen.stats().done - len(read) + WIDTH


@pytest.mark.parametrize("ordered", [False, True])
@virtually
async def test_a_scope_in_the_block_cuts_the_reader_alone(ordered: bool) -> None:
    """A scope entered after the stream ends the reading; the stream goes on and can be read on."""
    read = []
    cuts = 0
    async with (
        scripted(steady, limits=Limits(concurrency=WIDTH)) as (_, imagen),
        imagen.generate_many(PROMPTS, ordered=ordered) as outcomes,
    ):
        ended = False
        while not ended:
            with anyio.move_on_after(0.7) as scope:
                async for outcome in outcomes:
                    read.append(outcome.index)
                ended = True
            cuts += scope.cancelled_caught
        assert imagen.stats().dropped == 0
    assert sorted(read) == list(range(len(PROMPTS)))
    assert cuts > 5


async def _broken_off() -> AsyncIterator[str]:
    yield "1"
    task = asyncio.ensure_future(asyncio.sleep(100))
    asyncio.get_running_loop().call_later(1, task.cancel)
    await task
    yield "2"


async def _broken_work(index: int, item: str) -> Outcome:
    if item == "3":
        asyncio.current_task().cancel()  # type: ignore[union-attr]
    await asyncio.sleep(1)
    return Outcome(index, None)


@virtually
async def test_a_cancellation_from_within_is_not_the_end() -> None:
    """A source that waits for what was cancelled, or work that is, has not come to its end."""
    async with scripted(steady) as (_, imagen), imagen.generate_many(_broken_off()) as outcomes:
        assert (await anext(outcomes)).index == 0
        with pytest.raises(asyncio.CancelledError):
            await anext(outcomes)
    async with Stream("12345", _broken_work, concurrency=2) as stream:
        read = []
        with pytest.raises(asyncio.CancelledError):  # noqa: PT012
            async for outcome in stream:
                read.append(outcome.index)
    assert read == [0, 1, 3]


@virtually
async def test_a_reader_in_another_task_is_told() -> None:
    """A reader outside the scope that was cancelled does not take it for the end."""
    async with scripted(steady, limits=Limits(concurrency=WIDTH)) as (_, imagen):
        entered = asyncio.Event()
        stream: Any = None

        async def read() -> int:
            await entered.wait()
            return len([outcome async for outcome in stream])

        reader = asyncio.ensure_future(read())
        with anyio.move_on_after(5):
            async with imagen.generate_many(PROMPTS) as stream:
                entered.set()
                await asyncio.sleep(100)
        with pytest.raises((asyncio.CancelledError, RuntimeError)):
            await reader


@virtually
async def test_reading_outside_the_block() -> None:
    """A stream that was not entered, or was left, is no empty one."""
    async with scripted(answering()) as (_, imagen):
        stream = imagen.generate_many(PROMPTS)
        for entered in (False, True):
            if entered:
                async with stream:
                    await asyncio.sleep(5)
            for read in (anext(stream), stream.take(1), stream.wait()):
                with pytest.raises(RuntimeError, match="async with"):
                    await read
        assert imagen.stats().dropped == imagen.stats().done


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("way", [iterate, take, wait])
@pytest.mark.parametrize("handle", [at_once, briefly])
async def test_a_batch_that_is_cut_off(
    tmp_path: Path, way: Way, handle: Handle, ordered: bool
) -> None:
    """A cancelled batch never looks read out; its report is partial and lists what was sent."""
    ended = False
    with Emulator(latency=0.05, draw="tiny") as gateway:
        options = {"limits": Limits(concurrency=WIDTH), "allow_private": True}
        async with AsyncImagen(base_url=gateway.base_url, **options) as imagen:
            read = []

            async def note(outcome: Outcome) -> None:
                read.append(outcome.index)
                if len(read) == 6:
                    scope.cancel()
                await handle(outcome)

            with anyio.CancelScope() as scope:
                async with imagen.batch(PROMPTS, out=tmp_path, ordered=ordered) as run:
                    await way(run, note)
                    ended = True
    assert scope.cancelled_caught
    assert not ended
    report = run.report
    assert report.partial
    assert len(gateway.requests) <= report.done + report.unknown < len(PROMPTS)
    gateway.assert_charged_once()
