"""A paused run: nothing is sent and nothing is spent until it goes on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from imagen_async import ConfigurationError
from imagen_async.batch.run import Run, RunOptions
from imagen_async.emulator import Emulator
from imagen_async.storage.stores import MemoryStore
from tests.batch.runs import b64, core_on, run_all

if TYPE_CHECKING:
    from pathlib import Path

NO_GALLERY = RunOptions(gallery=False)
WHILE = 0.15
"""Seconds of a pause: many times what a request takes here."""


async def read(run: Run) -> list[Any]:
    """Return the outcomes of a run, to be read while something else is done to it."""
    return [outcome async for outcome in run]


async def posts(emulator: Emulator, least: int) -> None:
    """Wait until so many requests came."""
    while emulator.ledger.total.posts < least:
        await asyncio.sleep(0.002)


async def test_a_pause_spends_nothing(tmp_path: Path) -> None:
    """What is in flight is finished and yielded, nothing else is sent; then all goes on, once."""
    async with Emulator(draw="tiny", latency=0.04) as emulator:
        core = core_on(emulator, concurrency=4)
        run = Run(core, b64(*"0123456789abcdef"), tmp_path / "out", NO_GALLERY)
        async with run:
            reading = asyncio.create_task(read(run))
            await posts(emulator, 5)
            run.pause()
            run.pause()
            begun = run.report.attempts
            # What has its permit already, of four, may still be on its way to the journal.
            while (sent := run.report.attempts) > run.report.done:
                await asyncio.sleep(0.002)
            await asyncio.sleep(WHILE)
            assert run.paused
            assert emulator.ledger.total.posts == emulator.ledger.total.charged == sent
            assert run.report.done == run.report.attempts == sent <= begun + 4 < 16
            run.resume()
            assert not run.paused
            outcomes = await reading
        await core.aclose()
        emulator.ledger.assert_charged_once()
    assert len(outcomes) == run.report.done == emulator.ledger.total.posts == 16


async def test_no_retry_is_sent_while_paused(tmp_path: Path) -> None:
    """A call that failed during the pause waits for its end before it is sent again."""
    async with Emulator(draw="tiny", latency=0.04) as emulator:
        emulator.fail_next("503", times=2)
        core = core_on(emulator, server_errors_charged=False)
        run = Run(core, b64("a", "b"), tmp_path / "out", NO_GALLERY)
        async with run:
            reading = asyncio.create_task(read(run))
            await posts(emulator, 2)
            run.pause()
            await asyncio.sleep(WHILE)
            assert emulator.ledger.total.posts == 2
            run.resume()
            await reading
        await core.aclose()
    assert (run.report.done, emulator.ledger.total.posts) == (2, 4)


async def test_calls_at_the_gate_pause_too(tmp_path: Path) -> None:
    """A call that is let in after the pause began gives its place back and is not sent."""
    async with Emulator(draw="tiny", latency=0.04) as emulator:
        core = core_on(emulator, concurrency=1)
        run = Run(core, b64("a", "b", "c"), tmp_path / "out", NO_GALLERY)
        async with run:
            reading = asyncio.create_task(read(run))
            await posts(emulator, 1)  # the others wait at the gate
            run.pause()
            await asyncio.sleep(WHILE)
            assert emulator.ledger.total.posts == 1
            # The slot is free for what is not of this run.
            await asyncio.wait_for(core.generate(b64("mine")[0], store=MemoryStore()), 5)
            run.resume()
            await reading
        await core.aclose()
    assert (run.report.done, emulator.ledger.total.posts) == (3, 4)


async def test_a_paused_run_can_be_stopped(tmp_path: Path) -> None:
    """A stop ends a paused run with what was in flight; the next run does the rest, once each."""
    async with Emulator(draw="tiny", latency=0.03) as emulator:
        core = core_on(emulator)
        run = Run(core, b64(*"012345"), tmp_path / "out", NO_GALLERY)
        async with asyncio.timeout(10), run:
            reading = asyncio.create_task(read(run))
            await posts(emulator, 1)
            run.pause()
            await asyncio.sleep(WHILE)
            run.stop("interrupted")
            await reading
        assert run.report.stopped_by == "interrupted"
        assert run.report.done == emulator.ledger.total.charged < 6
        _, report = await run_all(core, b64(*"012345"), tmp_path / "out")
        await core.aclose()
        emulator.ledger.assert_charged_once()
    assert (report.done, emulator.ledger.total.charged) == (6, 6)


async def test_a_paused_run_can_be_cancelled(tmp_path: Path) -> None:
    """A cancellation ends a paused run at once; what was not sent is not in doubt."""
    async with Emulator(draw="tiny") as emulator:
        core = core_on(emulator)
        run = Run(core, b64("a", "b", "c"), tmp_path / "out", NO_GALLERY)

        async def paused() -> None:
            async with run:
                run.pause()
                await read(run)

        task = asyncio.create_task(paused())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)
        assert (run.report.unknown, emulator.ledger.total.posts) == (0, 0)
        _, report = await run_all(core, b64("a", "b", "c"), tmp_path / "out")
        await core.aclose()
    assert (report.done, emulator.ledger.total.charged) == (3, 3)


async def test_a_pause_uses_up_no_patience(tmp_path: Path) -> None:
    """A run that is refused does not give up for the time that it was paused."""
    async with Emulator(draw="tiny") as emulator:
        emulator.fail_next("retry_after:1")
        core = core_on(emulator, concurrency=1)
        run = Run(core, b64("a"), tmp_path / "out", RunOptions(gallery=False, give_up_after=0.8))
        async with run:
            reading = asyncio.create_task(read(run))
            await posts(emulator, 1)
            run.pause()
            await asyncio.sleep(1.05)
            run.resume()
            (outcome,) = await reading
        await core.aclose()
    assert outcome.ok


async def test_a_run_is_paused_inside_its_block(core: Any, tmp_path: Path) -> None:
    """Before its block there is nothing to pause, which is said."""
    with pytest.raises(ConfigurationError, match="inside its block"):
        Run(core, ["a"], tmp_path / "out").pause()
