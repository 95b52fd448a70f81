"""Paid answers whose links are dead: what the user's word does about them, and what never."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from imagen_async.batch.run import Run, RunOptions
from imagen_async.emulator import Emulator
from imagen_async.errors import DownloadError, ExpiredUrlError
from imagen_async.session import download
from imagen_async.wire.request import GenerationRequest
from tests.batch.runs import core_on, execute, images, run_all, view


def pictures(emulator: Emulator) -> list[Any]:
    return list(emulator.gateway.gallery._pictures.values())


async def two_of_three(emulator: Emulator, core: Any, out: Path, request: Any) -> None:
    """Buy three images of which two can be downloaded."""
    emulator.fail_next("file_expired")
    await run_all(core, [request], out)
    pictures(emulator)[0].fault = pictures(emulator)[1].fault = None
    _, report = await run_all(core, [request], out)
    assert (report.images, report.received) == (2, 1)


async def test_a_dead_link_is_ordered_again_when_told(
    emulator: Emulator, core: Any, tmp_path: Path
) -> None:
    """One more charge, counted, under the old key; the next run finds it done."""
    out = tmp_path / "out"
    emulator.fail_next("file_expired")
    await run_all(core, ["a"], out)
    (outcome,), report = await run_all(core, ["a"], out, on_unknown="resend")
    assert outcome.ok
    assert (report.done, report.unknown, report.resent, report.spent) == (1, 0, 1, 2)
    assert (emulator.ledger["a"].posts, len(emulator.ledger["a"].keys)) == (2, 1)
    assert len(view(out, "metadata")) == len(images(out)) == 1

    outcomes, report = await run_all(core, ["a"], out, on_unknown="resend")
    assert (outcomes, report.done, emulator.ledger["a"].posts) == ([], 1, 2)


async def test_a_link_that_lives_again_is_not_ordered_again(
    emulator: Emulator, core: Any, tmp_path: Path
) -> None:
    """The download comes first, whatever the word is; nothing is bought or given up for it."""
    for word in ("resend", "drop"):
        out = tmp_path / word
        emulator.fail_next("file_expired")
        await run_all(core, [word], out)
        for picture in pictures(emulator):
            picture.fault = None
        _, report = await run_all(core, [word], out, on_unknown=word)
        assert (report.done, report.dropped, report.spent) == (1, 0, 1)
        assert emulator.ledger[word].posts == 1


async def test_a_dead_link_is_closed_when_told(
    emulator: Emulator, core: Any, tmp_path: Path
) -> None:
    """Dropped, it stays listed as charged and is not tried again, its row in the input or not."""
    for number, again in enumerate((["a"], ["b"])):
        out = tmp_path / str(number)
        emulator.fail_next("file_expired", prompt="a")
        await run_all(core, ["a"], out)
        _, report = await run_all(core, again, out, on_unknown="drop")
        tried = emulator.ledger["a"].downloads
        row = next(row for row in view(out, "unknown") if row["prompt"] == "a")
        assert (row["dropped"], row["error"]["charge"]) == (True, "yes")
        assert (report.unknown, report.others_unknown, report.ok) == (0, 0, True)
        outcomes, _ = await run_all(core, ["a"], out, on_unknown="resend")
        assert (outcomes, emulator.ledger["a"].downloads) == ([], tried)
    assert emulator.ledger["a"].posts == 2


@pytest.mark.parametrize("fault", ["file_html", "file_truncated"])
async def test_a_link_that_is_not_dead_waits(
    emulator: Emulator, core: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """A server in trouble may recover: neither word gives up what is paid for."""
    monkeypatch.setattr(download, "RETRIES", 0)
    out = tmp_path / "out"
    emulator.fail_next(fault)
    await run_all(core, ["a"], out)
    for word in ("resend", "drop"):
        (outcome,), report = await run_all(core, ["a"], out, on_unknown=word)
        assert type(outcome.error) is DownloadError
        assert (report.unknown, report.received, report.spent) == (1, 1, 1)
    assert emulator.ledger["a"].posts == 1


async def test_one_link_that_may_come_holds_back_the_order(
    emulator: Emulator, core: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one link dead and one in trouble nothing is bought until the second is known."""
    monkeypatch.setattr(download, "RETRIES", 0)
    out, request = tmp_path / "out", GenerationRequest("a", n=2)
    emulator.fail_next("file_expired")
    await run_all(core, [request], out)
    pictures(emulator)[0].fault = "file_html"
    (outcome,), _ = await run_all(core, [request], out, on_unknown="resend")
    assert not isinstance(outcome.error, ExpiredUrlError)
    assert emulator.ledger["a"].posts == 1


async def test_images_of_the_first_order_are_not_written_over(
    emulator: Emulator, core: Any, tmp_path: Path
) -> None:
    """Two came, the third link is dead: the second order's three lie beside the first two."""
    out, request = tmp_path / "out", GenerationRequest("a", n=3)
    await two_of_three(emulator, core, out, request)
    first = {path: path.read_bytes() for path in images(out)}

    (outcome,), report = await run_all(core, [request], out, on_unknown="resend")
    assert outcome.ok
    assert (report.done, report.images, report.resent, report.spent) == (1, 5, 1, 6)
    assert len(view(out, "metadata")) == len(images(out)) == 5
    assert {path: path.read_bytes() for path in first} == first


async def test_a_second_order_that_is_cut_off_is_in_doubt(
    emulator: Emulator, core: Any, tmp_path: Path
) -> None:
    """The images of the first order do not vouch for those of the second."""
    out, request = tmp_path / "out", GenerationRequest("a", n=3)
    await two_of_three(emulator, core, out, request)
    execute(out, "UPDATE item SET state = 'sending'")

    outcomes, report = await run_all(core, [request], out)
    assert outcomes == []
    assert (report.done, report.unknown, report.charged_yes, report.images) == (0, 1, 1, 2)
    assert len(view(out, "unknown")[0]["files"]) == 2


async def test_a_second_order_is_stopped_by_what_stops_any(
    emulator: Emulator, core: Any, tmp_path: Path
) -> None:
    """It keeps to the budget, and stays what it was: the links are tried again another day."""
    out = tmp_path / "out"
    emulator.fail_next("file_expired")
    await run_all(core, ["a"], out)
    money = {"price_per_image": 1.0, "budget": 1.0}
    _, report = await run_all(core, ["a"], out, on_unknown="resend", **money)
    assert (report.stopped_by, report.spent, emulator.ledger["a"].posts) == ("budget", 1, 1)
    assert execute(out, "SELECT state FROM item") == [("received",)]
    _, report = await run_all(core, ["a"], out, on_unknown="resend")
    assert (report.done, report.spent) == (1, 2)


async def test_a_second_order_that_fails_stays_charged(
    emulator: Emulator, core: Any, tmp_path: Path
) -> None:
    """What the gateway refuses the second time was paid for the first time."""
    out = tmp_path / "out"
    emulator.fail_next("file_expired")
    await run_all(core, ["a"], out)
    emulator.fail_next("status:400")
    (outcome,), report = await run_all(core, ["a"], out, on_unknown="resend")
    assert not outcome.ok
    assert (report.unknown, report.charged_yes, report.failed) == (1, 1, 0)
    assert json.loads((out / "report.json").read_text())["received"] == 0


async def test_rows_that_left_the_input_are_not_ordered_again(
    emulator: Emulator, core: Any, tmp_path: Path
) -> None:
    """Their links are tried, and no more: nobody asks for them now."""
    out = tmp_path / "out"
    emulator.fail_next("file_expired", prompt="a")
    await run_all(core, ["a"], out)
    outcomes, report = await run_all(core, ["b"], out, on_unknown="resend")
    assert sorted(outcome.ok for outcome in outcomes) == [False, True]
    assert (report.total, report.done, report.others, report.others_unknown) == (1, 1, 1, 1)
    assert emulator.ledger["a"].posts == 1


async def test_a_cut_second_order_is_in_doubt(emulator: Emulator, tmp_path: Path) -> None:
    """Cancelled under way, it may have been charged, as any other."""
    out = tmp_path / "out"
    core = core_on(emulator)
    emulator.fail_next("file_expired")
    await run_all(core, ["a"], out)
    emulator.fail_next("stall")
    run = Run(core, ["a"], out, RunOptions(on_unknown="resend", gallery=False))

    async def go() -> None:
        async with run:
            async for _ in run:
                pass

    task = asyncio.create_task(go())
    while emulator.ledger["a"].posts < 2:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await core.aclose()
    assert (run.report.unknown, run.report.resent, run.report.spent) == (1, 1, 2)
