"""Batches of a gateway that answers with tasks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from imagen_async.emulator import Emulator
from imagen_async.session import tasks
from tests.batch.runs import b64, core_on, images, run_all, view


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polls follow each other at once where the gateway does not ask for a pause."""
    monkeypatch.setattr(tasks, "PAUSES", (0.01,))


async def test_every_task_is_collected_and_ordered_once(tmp_path: Path) -> None:
    """All images are here, each charged once, whether they come as links or as bytes."""
    async with Emulator(draw="tiny", tasks="202", latency=0.02, time_scale=50.0) as emulator:
        core = core_on(emulator, concurrency=4, allow_private=True)
        _, report = await run_all(core, ["a", "b", *b64("c", "d")], tmp_path / "out")
        await core.aclose()

    assert (report.done, report.images, report.attempts) == (4, 4, 4)
    assert emulator.ledger.total.charged == emulator.ledger.total.posts == 4


async def test_a_task_is_collected_by_the_next_run(tmp_path: Path) -> None:
    """A run that is cancelled while it polls leaves its tasks in the journal; none is bought."""
    out = tmp_path / "out"
    async with Emulator(draw="tiny", tasks="202", latency=20.0, time_scale=50.0) as emulator:
        core = core_on(emulator, concurrency=4)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await run_all(core, b64("a", "b"), out)
        _, report = await run_all(core, b64("a", "b"), out)
        await core.aclose()

    assert (report.done, report.unknown, len(images(out))) == (2, 0, 2)
    assert emulator.ledger.total.posts == 2


async def test_a_task_that_failed_for_free_may_be_tried_again(tmp_path: Path) -> None:
    """Its charge is taken back with its words' leave, and --retry-failed orders it anew."""
    out = tmp_path / "out"
    async with Emulator(draw="tiny", tasks="202", time_scale=100.0) as emulator:
        emulator.fail_next("task_failed")
        core = core_on(emulator)
        _, report = await run_all(core, b64("a"), out)
        assert (report.failed, report.unknown, report.spent) in ((1, 0, 0), (0, 1, 1))
        _, again = await run_all(core, b64("a"), out, retry_failed=True, on_unknown="resend")
        await core.aclose()

    assert (again.done, again.spent - report.spent) == (1, 1)


async def test_a_task_that_the_gateway_forgot_stays_listed(tmp_path: Path) -> None:
    """It is paid for and listed with its id, and only --on-unknown resend buys it again."""
    out = tmp_path / "out"
    async with Emulator(draw="tiny", tasks="202", time_scale=100.0) as emulator:
        emulator.fail_next("task_lost")
        core = core_on(emulator)
        _, report = await run_all(core, b64("a"), out)
        _, held = await run_all(core, b64("a"), out)
        (row,) = view(out, "unknown")
        _, resent = await run_all(core, b64("a"), out, on_unknown="resend")
        await core.aclose()

    assert (report.received, held.received, resent.done) == (1, 1, 1)
    assert "task-" in row["error"]["message"]
    assert emulator.ledger.total.posts == 2
