"""Blocking work off the loop: alone, or side by side in one visit."""

import asyncio
import threading
from collections.abc import Generator

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen_async.storage import offload
from imagen_async.storage.offload import finish, in_thread, run_alone, run_batched

Steps = Generator[str | None, Exception | None, str]


def steps(name: str, count: int, log: list[str]) -> Steps:
    for number in range(count):
        log.append(f"{name}{number}")
        yield None
    return name


def failing(log: list[str]) -> Steps:
    log.append("failing")
    yield None
    raise ZeroDivisionError


def held(begun: threading.Event, go: threading.Event) -> Steps:
    begun.set()
    assert go.wait(10)
    yield None
    return "held"


@given(st.lists(st.integers(0, 5), max_size=8))
def test_works_are_finished_side_by_side(counts: list[int]) -> None:
    """Every work takes its next step before any takes the one after, and each gets its own end."""
    log: list[str] = []
    works = [steps(f"{place}.", count, log) for place, count in enumerate(counts)]
    assert finish(works) == [f"{place}." for place in range(len(counts))]
    most = max(counts, default=0)
    assert log == [
        f"{place}.{number}"
        for number in range(most)
        for place, count in enumerate(counts)
        if number < count
    ]


def test_a_work_that_fails_does_not_stop_the_others() -> None:
    """An error is one work's end; the others go on to theirs."""
    log: list[str] = []
    first, second, third = finish([steps("a", 3, log), failing(log), steps("b", 3, log)])
    assert (first, third) == ("a", "b")
    assert isinstance(second, ZeroDivisionError)
    assert log == ["a0", "failing", "b0", "a1", "b1", "a2", "b2"]


async def test_what_waits_at_the_same_time_shares_a_visit() -> None:
    """Works of one turn of the loop run in one thread, step by step beside each other."""
    log: list[str] = []
    found = await asyncio.gather(*(run_batched(steps(name, 2, log)) for name in "abc"))
    assert found == ["a", "b", "c"]
    assert log == ["a0", "b0", "c0", "a1", "b1", "c1"]


async def test_an_error_reaches_its_own_caller_alone() -> None:
    """Of several works in one visit, only the one that failed raises."""
    log: list[str] = []
    found = await asyncio.gather(
        run_batched(failing(log)), run_batched(steps("a", 2, log)), return_exceptions=True
    )
    assert isinstance(found[0], ZeroDivisionError)
    assert found[1] == "a"
    with pytest.raises(ZeroDivisionError):
        await run_alone(failing(log))


async def test_what_comes_during_a_visit_shares_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """One visit goes on at a time; a visit has a bound, since each work may hold a file open."""
    monkeypatch.setattr(offload, "TOGETHER", 3)
    begun, go, log = threading.Event(), threading.Event(), list[str]()
    first = asyncio.create_task(run_batched(held(begun, go)))
    await asyncio.to_thread(begun.wait, 10)
    later = [asyncio.create_task(run_batched(steps(name, 2, log))) for name in "abcd"]
    await asyncio.sleep(0)
    assert log == []
    go.set()
    assert await asyncio.gather(first, *later) == ["held", "a", "b", "c", "d"]
    assert log == ["a0", "b0", "c0", "a1", "b1", "c1", "d0", "d1"]


@pytest.mark.parametrize("how", ["task", "scope"])
async def test_a_work_is_done_whatever_becomes_of_its_caller(how: str) -> None:
    """A cancelled caller's work still runs, and so do those beside it."""
    begun, go, log = threading.Event(), threading.Event(), list[str]()
    first = asyncio.create_task(run_batched(held(begun, go)))
    await asyncio.to_thread(begun.wait, 10)
    scope = anyio.CancelScope()

    async def call() -> str:
        with scope:
            return await run_batched(steps("a", 2, log))
        return "cancelled"

    given_up = asyncio.create_task(call())
    other = asyncio.create_task(run_batched(steps("b", 2, log)))
    await asyncio.sleep(0)
    scope.cancel() if how == "scope" else given_up.cancel()
    go.set()
    assert await asyncio.gather(first, other) == ["held", "b"]
    await asyncio.wait([given_up])
    assert given_up.cancelled() is (how == "task")
    assert log == ["a0", "b0", "a1", "b1"]


def test_a_loop_that_ends_leaves_no_caller_waiting() -> None:
    """Works that had not begun are given up with the loop, and nobody hangs."""
    begun, go, log = threading.Event(), threading.Event(), list[str]()

    async def main() -> list[asyncio.Task[str]]:
        tasks = [asyncio.create_task(run_batched(held(begun, go)))]
        await asyncio.to_thread(begun.wait, 10)
        tasks.append(asyncio.create_task(run_batched(steps("a", 1, log))))
        await asyncio.sleep(0)
        return tasks

    try:
        tasks = asyncio.run(main())
    finally:
        go.set()
    assert all(task.cancelled() for task in tasks)
    assert log == []


async def test_a_thread_that_cannot_be_had_is_told_to_every_caller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If no thread starts, each call fails; the next visit is tried anew."""

    async def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    log: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr(offload, "in_thread", refuse)
        found = await asyncio.gather(
            *(run_batched(steps(name, 1, log)) for name in "ab"), return_exceptions=True
        )
    assert [type(each) for each in found] == [RuntimeError, RuntimeError]
    assert await run_batched(steps("c", 1, log)) == "c"


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
async def test_without_a_thread_the_work_is_done_here(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop that stands still for a moment costs no image; the work is done once."""

    def refuse(_: threading.Thread) -> None:
        raise error

    here, log = threading.get_ident(), list[str]()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        assert await in_thread(threading.get_ident) == here
        assert await asyncio.gather(*(run_batched(steps(name, 1, log)) for name in "ab")) == [
            "a",
            "b",
        ]
        assert await run_alone(steps("c", 1, log)) == "c"
    assert log == ["a0", "b0", "c0"]
    assert await in_thread(threading.get_ident) != here


async def test_an_error_of_the_work_itself_is_not_a_lack_of_threads() -> None:
    """Work that began and failed is not done again."""
    calls = []

    def fail() -> None:
        calls.append(1)
        raise RuntimeError("the work")

    with pytest.raises(RuntimeError, match="the work"):
        await in_thread(fail)
    assert calls == [1]


async def test_works_outlive_a_visit_that_is_cut_off() -> None:
    """If the visits alone are cancelled, no caller hangs, and what waited is done by the next."""
    begun, go, log = threading.Event(), threading.Event(), list[str]()
    before = asyncio.all_tasks()
    first = asyncio.create_task(run_batched(held(begun, go)))
    assert await asyncio.to_thread(begun.wait, 10)
    (visits,) = asyncio.all_tasks() - before - {first}
    waiting = asyncio.create_task(run_batched(steps("a", 1, log)))
    await asyncio.sleep(0)
    visits.cancel()
    go.set()
    assert await asyncio.wait([first, waiting], timeout=10) == ({first, waiting}, set())
    assert (first.cancelled(), waiting.cancelled()) == (True, True)
    assert await run_batched(steps("b", 1, log)) == "b"
    assert log == ["a0", "b0"]


async def test_at_most_eight_threads_write_at_once() -> None:
    """More writers only queue at the disk, and each holds memory."""
    go = threading.Event()
    try:
        async with anyio.create_task_group() as group:
            for _ in range(40):
                group.start_soon(in_thread, lambda: go.wait(10))
            await anyio.wait_all_tasks_blocked()
            limiter = offload._writers.get()
            assert limiter.borrowed_tokens == 8
            assert limiter.statistics().tasks_waiting == 32
            go.set()
    finally:
        go.set()
