"""The bounded stream: lazy, whole, in order if asked, and left in peace."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagen_async import GenerationRequest, InvalidRequestError, Limits, Outcome, Timeouts
from imagen_async.session.stream import AHEAD, Stream
from tests import virtual
from tests.scripted import Answer, Post, answering, scripted
from tests.virtual import virtually


async def slow(post: Post) -> Answer:
    post.send()
    await asyncio.sleep(random.uniform(1, 9))
    return post.image()


class Counted:
    """A source that knows how far it was pulled."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.pulled = 0

    def plain(self) -> Iterator[str]:
        for number in range(self.count):
            self.pulled += 1
            yield str(number)

    async def slowly(self) -> AsyncIterator[str]:
        for number in range(self.count):
            await asyncio.sleep(0.1)
            self.pulled += 1
            yield str(number)


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("kind", ["plain", "slowly"])
@virtually
async def test_every_item_once(kind: str, ordered: bool) -> None:
    """Each prompt settles once, as an outcome that knows its place, from any source."""
    source = Counted(100)
    async with scripted(slow, limits=Limits(concurrency=7)) as (gateway, imagen):
        async with imagen.generate_many(getattr(source, kind)(), ordered=ordered) as outcomes:
            found = [outcome async for outcome in outcomes]
        assert gateway.peak == 7
    indices = [outcome.index for outcome in found]
    assert sorted(indices) == list(range(100))
    assert (indices == sorted(indices)) is ordered
    for outcome in found:
        assert outcome.ok
        assert outcome.error is None
        assert outcome.request is not None
        assert outcome.generation is not None
        assert outcome.request.prompt == str(outcome.index)
        assert outcome.generation.images[0].revised_prompt == str(outcome.index)


@pytest.mark.parametrize("ordered", [False, True])
@virtually
async def test_a_slow_reader_slows_the_source(ordered: bool) -> None:
    """No more than concurrency + 2 prompts are ever between the source and the reader."""
    source = Counted(60)
    async with (
        scripted(slow, limits=Limits(concurrency=4)) as (_, imagen),
        imagen.generate_many(source.plain(), ordered=ordered) as outcomes,
    ):
        assert source.pulled == 0
        await asyncio.sleep(1000)
        assert source.pulled == 4 + AHEAD
        read = 0
        async for _ in outcomes:
            read += 1
            assert source.pulled <= read + 4 + AHEAD
            await asyncio.sleep(100)
            assert source.pulled <= read + 4 + AHEAD
        assert read == 60


@virtually
async def test_leaving_early() -> None:
    """Leaving the block cancels what is in flight and counts what may be paid for."""
    source = Counted(1000)

    async def steady(post: Post) -> Answer:
        post.send()
        await asyncio.sleep(float(post.prompt) + 1)
        return post.image()

    async with scripted(steady, limits=Limits(concurrency=5)) as (gateway, imagen):
        async with imagen.generate_many(source.slowly()) as outcomes:
            async for outcome in outcomes:
                assert outcome.ok
                break
        assert gateway.open == 0
        assert imagen.stats().dropped == len(gateway.posts) - 1
        assert imagen.stats().in_flight == 0


@virtually
async def test_outcomes_that_nobody_read_are_counted() -> None:
    """An image that came and was never read counts as dropped."""
    async with scripted(answering(), limits=Limits(concurrency=3)) as (gateway, imagen):
        async with imagen.generate_many(map(str, range(10))) as outcomes:
            await asyncio.sleep(1)
        assert len(gateway.posts) == 5
        assert imagen.stats().dropped == imagen.stats().done == 5
        assert outcomes is not None


@virtually
async def test_the_blocks_own_error_comes_out_alone() -> None:
    """An exception in the block leaves it as it is, in no group, and cancels the rest."""
    async with scripted(slow) as (gateway, imagen):
        with pytest.raises(KeyError, match="own"):  # noqa: PT012
            async with imagen.generate_many(map(str, range(10))) as outcomes:
                async for _ in outcomes:
                    raise KeyError("own")
        assert gateway.open == 0


@pytest.mark.parametrize("asynchronous", [False, True])
@virtually
async def test_a_source_that_raises(asynchronous: bool) -> None:
    """What was pulled before the source broke settles first; then the reader gets its error."""

    def plain() -> Iterator[str]:
        yield from "abc"
        raise LookupError("the source broke")

    async def slowly() -> AsyncIterator[str]:
        for prompt in plain():
            yield prompt

    async with scripted(slow) as (_, imagen):
        found = []
        with pytest.raises(LookupError, match="the source broke"):  # noqa: PT012
            async with imagen.generate_many(slowly() if asynchronous else plain()) as outcomes:
                async for outcome in outcomes:
                    found.append(outcome.ok)
        assert found == [True] * 3


@virtually
async def test_items_that_are_no_requests() -> None:
    """A prompt that cannot be sent is that item's error, and costs no other item."""
    source: list[Any] = ["a", "", GenerationRequest("b", n=2), 7, None, "c"]
    async with (
        scripted(answering()) as (gateway, imagen),
        imagen.generate_many(source, ordered=True) as outcomes,
    ):
        found = [outcome async for outcome in outcomes]
    assert [outcome.ok for outcome in found] == [True, False, True, False, False, True]
    bad = [outcome for outcome in found if not outcome.ok]
    assert all(isinstance(outcome.error, InvalidRequestError) for outcome in bad)
    assert all(outcome.request is None for outcome in bad)
    assert sorted(post.prompt for post in gateway.posts) == ["a", "b", "c"]


@virtually
async def test_failures_are_outcomes() -> None:
    """A call that fails settles as an outcome with its error; the others go on."""

    async def handler(post: Post) -> Answer:
        return Answer(400) if post.prompt == "3" else post.image()

    async with (
        scripted(handler) as (_, imagen),
        imagen.generate_many(map(str, range(6)), ordered=True) as outcomes,
    ):
        found = [outcome.ok async for outcome in outcomes]
    assert found == [True, True, True, False, True, True]


@virtually
async def test_an_empty_source() -> None:
    """No prompts, no outcomes, no waiting."""
    async with scripted(answering()) as (_, imagen), imagen.generate_many([]) as outcomes:
        assert [outcome async for outcome in outcomes] == []
        assert [outcome async for outcome in outcomes] == []
        assert await outcomes.take(5) == []


@virtually
async def test_without_its_block() -> None:
    """A stream that was not entered says how it is used."""
    async with scripted(answering()) as (_, imagen):
        stream = imagen.generate_many(["a"])
        with pytest.raises(RuntimeError, match="async with"):
            async for _ in stream:
                pass


@virtually
async def test_total_does_not_count_the_queue() -> None:
    """In a stream a call's total starts when it is let in: a long queue fails nobody."""

    async def minute(post: Post) -> Answer:
        post.send()
        await asyncio.sleep(60)
        return post.image()

    options = {"limits": Limits(concurrency=1), "timeouts": Timeouts(total=100)}
    async with (
        scripted(minute, **options) as (_, imagen),
        imagen.generate_many(map(str, range(20))) as outcomes,
    ):
        assert [outcome.ok async for outcome in outcomes] == [True] * 20


@virtually
async def test_taking_several() -> None:
    """take gives what is ready, up to its limit, and [] at the end."""
    async with (
        scripted(answering(), limits=Limits(concurrency=8)) as (_, imagen),
        imagen.generate_many(map(str, range(10))) as outcomes,
    ):
        sizes = []
        while taken := await outcomes.take(4):
            sizes.append(len(taken))
            await asyncio.sleep(1)
    assert sum(sizes) == 10
    assert max(sizes) == 4


@virtually
async def test_stopping() -> None:
    """After stop nothing more is pulled; what was pulled is still yielded."""
    source = Counted(1000)
    async with (
        scripted(slow, limits=Limits(concurrency=3)) as (_, imagen),
        imagen.generate_many(source.slowly()) as outcomes,
    ):
        await asyncio.sleep(0.25)
        outcomes.stop()
        found = [outcome.ok async for outcome in outcomes]
    assert found == [True] * source.pulled == [True] * 2


async def _work(index: int, item: int) -> Outcome | None:
    await asyncio.sleep(item % 7)
    if item % 11 == 10:
        raise ZeroDivisionError
    return None if item % 3 == 0 else Outcome(index, None)


@given(
    items=st.lists(st.integers(0, 9), max_size=30),
    concurrency=st.integers(1, 5),
    ordered=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_what_has_nothing_to_yield(items: list[int], concurrency: int, ordered: bool) -> None:
    """Items without an outcome are passed over, whatever their mix, and hold no place."""

    async def main() -> None:
        async with Stream(items, _work, concurrency=concurrency, ordered=ordered) as stream:
            found = [outcome.index async for outcome in stream]
        assert sorted(found) == [index for index, item in enumerate(items) if item % 3]
        assert found == sorted(found) or not ordered

    virtual.run(main())


@virtually
async def test_work_that_fails_ends_the_stream() -> None:
    """An error that is no outcome is raised to the reader after what was in flight."""
    async with Stream([1, 2, 10, 4], _work, concurrency=2) as stream:
        with pytest.raises(ZeroDivisionError):
            async for _ in stream:
                pass
