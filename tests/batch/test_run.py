"""Runs of batches against the emulator: what settles how, what stops them, what a resume does."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import math
import os
import stat
from contextlib import aclosing
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from imagen_async.batch import lists, recovery
from imagen_async.batch.journal import SqliteJournal
from imagen_async.batch.prompts import Row, read_source
from imagen_async.batch.run import Run, RunOptions
from imagen_async.emulator import Emulator, FaultRule
from imagen_async.emulator.drawing import recipe as drawing
from imagen_async.errors import (
    Charge,
    ConfigurationError,
    DownloadError,
    InvalidRequestError,
    OutcomeUnknownError,
    RejectedError,
    SpoiledAnswerError,
)
from imagen_async.storage import disk
from imagen_async.wire.request import GenerationRequest
from tests.batch.runs import b64, core_on, execute, images, run_all, view


async def test_every_image_is_here_and_listed(
    emulator: Emulator, core: Any, tmp_path: Path
) -> None:
    """Bytes and links both end as files whose row in metadata.jsonl is true of them."""
    out = tmp_path / "out"
    requests = [*b64("one", "two", n=2), "three", Row(9, "mine", GenerationRequest("four"))]
    outcomes, report = await run_all(core, requests, out)

    assert [outcome.ok for outcome in outcomes] == [True] * 4
    assert (report.done, report.images, report.total, report.ok) == (4, 6, 4, True)
    rows = view(out, "metadata")
    assert sorted(row["file_name"] for row in rows) == [
        path.relative_to(out).as_posix() for path in images(out)
    ]
    for row in rows:
        data = (out / row["file_name"]).read_bytes()
        assert row["bytes"] == len(data)
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
        assert (row["width"], row["height"], row["media_type"]) == (16, 16, "image/png")
        assert set(row) == set(rows[0])
        assert "http" not in json.dumps(row)
    assert [row["id"] for row in rows].count("mine") == 1
    assert json.loads((out / "report.json").read_text()) == report.as_json()
    assert view(out, "failed") == view(out, "unknown") == []


async def test_a_second_run_sends_nothing(emulator: Emulator, core: Any, tmp_path: Path) -> None:
    """What is done is skipped whatever its format, place, id or neighbours are now."""
    out = tmp_path / "out"
    await run_all(core, b64("a", "b", "a"), out)
    again = ["c", "a", Row(5, "new name", GenerationRequest("b", model="imagen4")), "a"]
    outcomes, report = await run_all(core, again, out)

    assert [outcome.index for outcome in outcomes] == [0]
    assert emulator.ledger.total.posts == 4
    assert (report.done, report.total) == (4, 4)


async def test_nothing_is_bought_where_no_image_fits(
    emulator: Emulator, core: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk each start would buy what it loses: it says so and sends nothing."""
    room = recovery.ROOM
    with monkeypatch.context() as full:
        full.setattr(recovery.shutil, "disk_usage", lambda _: (10**12, 10**12, room - 1))
        with pytest.raises(ConfigurationError, match=r"Only 16,383 KiB are free .* make room"):
            await run_all(core, b64("a"), tmp_path / "out")
    assert emulator.ledger.total.posts == 0

    _, report = await run_all(core, b64("a"), tmp_path / "out")
    assert report.done == 1


async def test_equal_rows_are_samples(emulator: Emulator, core: Any, tmp_path: Path) -> None:
    """The k-th equal row is an item of its own, and one more row buys one more image."""
    out = tmp_path / "out"
    await run_all(core, b64("a", "a"), out)
    outcomes, _ = await run_all(core, b64("a", "a", "a"), out)

    assert [outcome.index for outcome in outcomes] == [2]
    assert len(images(out)) == 3


async def test_ordered_outcomes_follow_the_input(core: Any, tmp_path: Path) -> None:
    """Order holds, and the index is the place in the whole input, skipped rows included."""
    out = tmp_path / "out"
    await run_all(core, b64("1", "3"), out)
    outcomes, _ = await run_all(core, b64(*"0123456789"), out, ordered=True)

    assert [outcome.index for outcome in outcomes] == [0, 2, 4, 5, 6, 7, 8, 9]


async def test_each_item_settles_by_itself(emulator: Emulator, core: Any, tmp_path: Path) -> None:
    """Failed, unknown and done stand side by side, each in its list with its reason."""
    out = tmp_path / "out"
    emulator.fail_next("status:400", prompt="bad")
    emulator.fail_next("drop", prompt="lost")
    outcomes, report = await run_all(core, ["good", "bad", "lost", ""], out)

    kinds = {outcome.index: type(outcome.error) for outcome in outcomes}
    assert kinds == {
        0: type(None),
        1: RejectedError,
        2: OutcomeUnknownError,
        3: InvalidRequestError,
    }
    assert (report.done, report.failed, report.unknown, report.invalid) == (1, 2, 1, 1)
    assert (report.charged_maybe, report.charged_yes, report.ok) == (1, 0, False)
    failed, invalid = view(out, "failed")
    assert failed["prompt"] == "bad"
    assert failed["error"]["type"] == "RejectedError"
    assert failed["error"]["status"] == 400
    assert failed["error"]["charge"] == "no"
    assert invalid["line"] == 4
    (unknown,) = view(out, "unknown")
    assert unknown["error"]["charge"] == "maybe"
    assert (
        unknown["error"]["idempotency_key"]
        == outcomes[[outcome.index for outcome in outcomes].index(2)].error.idempotency_key
    )  # type: ignore[union-attr]


async def test_unknown_items_are_held_unless_told(
    emulator: Emulator, core: Any, tmp_path: Path
) -> None:
    """Hold sends nothing; resend sends once more under the old key and counts it."""
    out = tmp_path / "out"
    emulator.fail_next("drop")
    await run_all(core, ["a"], out)
    held, report = await run_all(core, ["a"], out)
    assert (held, report.unknown, emulator.ledger["a"].posts) == ([], 1, 1)

    (outcome,), report = await run_all(core, ["a"], out, on_unknown="resend")
    assert outcome.ok
    assert (report.done, report.unknown, report.resent, report.spent) == (1, 0, 1, 2)
    assert emulator.ledger["a"].posts == 2
    assert len(emulator.ledger["a"].keys) == 1


async def test_a_resend_that_fails_uncharged_stays_unknown(
    emulator: Emulator, core: Any, tmp_path: Path
) -> None:
    """The charge of an item is the worst over all its attempts, in all runs."""
    out = tmp_path / "out"
    emulator.fail_next("drop")
    await run_all(core, ["a"], out)
    emulator.fail_next("status:400")
    (outcome,), report = await run_all(core, ["a"], out, on_unknown="resend")

    assert isinstance(outcome.error, RejectedError)
    assert (report.unknown, report.failed, report.charged_maybe) == (1, 0, 1)
    assert view(out, "unknown")[0]["error"]["charge"] == "maybe"


async def test_dropped_items_stay_listed(emulator: Emulator, core: Any, tmp_path: Path) -> None:
    """Dropping closes an item for good and keeps what it may have cost in the list."""
    out = tmp_path / "out"
    emulator.fail_next("drop")
    await run_all(core, ["a"], out)
    _, report = await run_all(core, ["a"], out, on_unknown="drop")
    assert (report.dropped, report.unknown, report.charged_maybe, report.ok) == (1, 0, 1, True)
    assert view(out, "unknown")[0]["dropped"] is True

    outcomes, _ = await run_all(core, ["a"], out, on_unknown="resend")
    assert outcomes == []
    assert emulator.ledger["a"].posts == 1


async def test_failed_items_are_sent_again_when_told(
    emulator: Emulator, core: Any, tmp_path: Path
) -> None:
    """A retry of a failure carries a new key: an old one could bring the failure back."""
    out = tmp_path / "out"
    emulator.fail_next("status:400")
    await run_all(core, ["a"], out)
    outcomes, report = await run_all(core, ["a"], out)
    assert (outcomes, report.failed, emulator.ledger["a"].posts) == ([], 1, 1)

    (outcome,), report = await run_all(core, ["a"], out, retry_failed=True)
    assert outcome.ok
    assert (report.done, report.failed, report.resent, report.spent) == (1, 0, 0, 1)
    assert len(emulator.ledger["a"].keys) == 2
    assert view(out, "failed") == []


async def test_a_dead_link_is_tried_again_and_never_bought_again(
    emulator: Emulator, core: Any, tmp_path: Path
) -> None:
    """A paid answer whose download fails stays received; resumes download only."""
    out = tmp_path / "out"
    emulator.fail_next("file_expired")
    (outcome,), report = await run_all(core, ["a"], out)
    assert isinstance(outcome.error, DownloadError)
    assert (report.unknown, report.charged_yes) == (1, 1)
    (row,) = view(out, "unknown")
    assert row["error"]["charge"] == "yes"
    assert "http" not in json.dumps(row).replace(emulator.origin, "")

    again, _ = await run_all(core, ["a"], out)
    assert [type(outcome.error) for outcome in again] == [type(outcome.error)]
    for picture in emulator.gateway.gallery._pictures.values():
        picture.fault = None
    # The link is alive again, and its row has left the input.
    outcomes, report = await run_all(core, ["b"], out)
    assert {outcome.request.prompt for outcome in outcomes} == {"a", "b"}
    assert (report.done, report.others, report.others_unknown, report.images) == (1, 1, 0, 2)
    assert emulator.ledger["a"].posts == 1


async def test_links_that_came_are_kept_when_one_is_dead(
    emulator: Emulator, core: Any, tmp_path: Path
) -> None:
    """The images that came are files and listed, and only the dead link is tried again."""
    out = tmp_path / "out"
    emulator.fail_next("file_expired")
    (outcome,), report = await run_all(core, [GenerationRequest("a", n=3)], out)
    assert report.unknown == 1
    pictures = list(emulator.gateway.gallery._pictures.values())
    pictures[0].fault = pictures[1].fault = None
    (outcome,), report = await run_all(core, [GenerationRequest("a", n=3)], out)
    assert (report.images, len(view(out, "metadata")), report.done) == (2, 2, 0)
    assert len(view(out, "unknown")[0]["files"]) == 2
    pictures[2].fault = None
    (outcome,), report = await run_all(core, [GenerationRequest("a", n=3)], out)
    assert (report.images, len(view(out, "metadata")), report.done) == (3, 3, 1)
    assert outcome.ok
    assert emulator.ledger["a"].posts == 1
    assert emulator.ledger["a"].downloads == 3


async def test_a_stop_by_quota_puts_the_item_back(
    emulator: Emulator, core: Any, tmp_path: Path
) -> None:
    """The item is not failed, the intake ends, and another run finishes it."""
    out = tmp_path / "out"
    emulator.fail_next("402", prompt="1", times=1)
    async with aclosing(core_on(emulator, concurrency=1)) as one_by_one:
        outcomes, report = await run_all(one_by_one, b64(*"0123456789"), out)
    assert (report.stopped_by, report.failed, report.partial) == ("quota", 0, True)
    assert report.pending >= 1
    assert len(outcomes) == report.done < 10
    assert report.problem is not None
    assert view(out, "failed") == []

    outcomes, report = await run_all(core, b64(*"0123456789"), out)
    assert (report.done, report.ok, report.pending) == (10, True, 0)
    assert emulator.ledger.total.charged == 10


@pytest.mark.parametrize(
    ("fault", "stops"), [("401", "authentication"), ("403_quota", "quota"), ("status:404", None)]
)
async def test_what_stops_a_batch(
    emulator: Emulator, core: Any, tmp_path: Path, fault: str, stops: str | None
) -> None:
    """A bad key and an empty account stop it, a refused prompt does not."""
    emulator.fail_next(fault, prompt="0")
    _, report = await run_all(core, b64(*"0123"), tmp_path / "out")

    assert report.stopped_by == stops
    assert report.failed == (stops is None)


async def test_a_budget_is_never_passed(emulator: Emulator, core: Any, tmp_path: Path) -> None:
    """Images that may have been charged count, in this run and in earlier ones."""
    out = tmp_path / "out"
    emulator.fail_next("drop")
    options = {"price_per_image": 0.02, "budget": 0.10}
    _, report = await run_all(core, b64(*"01234567"), out, **options)
    assert (report.stopped_by, report.spent, report.cost) == ("budget", 5, 0.1)
    assert emulator.ledger.total.charged == 5

    _, report = await run_all(core, b64(*"01234567"), out, **options)
    assert emulator.ledger.total.charged == 5
    _, report = await run_all(core, b64(*"01234567", n=2), out, **options | {"budget": 0.15})
    assert (emulator.ledger.total.images, report.spent) == (7, 7)


async def test_failures_stop_a_batch_when_told(
    emulator: Emulator, core: Any, tmp_path: Path
) -> None:
    """The brake counts items of this run that ended without an image."""
    emulator.fail_next("status:400", times=100)
    _, report = await run_all(core, b64(*"0123456789"), tmp_path / "out", max_failures=2)

    assert report.stopped_by == "max_failures"
    assert 2 <= report.failed <= 4


@pytest.mark.parametrize("form", ["b64_json", "url"])
async def test_drawings_are_done(form: str, emulator: Emulator, core: Any, tmp_path: Path) -> None:
    """What is paid for and no raster image is a file like any other, and no picture of a page."""
    out = tmp_path / "out"
    emulator.fail("svg")
    requests = [GenerationRequest(str(number), response_format=form) for number in range(60)]
    local = core if form == "b64_json" else core_on(emulator, allow_private=True)
    outcomes, report = await run_all(local, requests, out, gallery=True)
    again, _ = await run_all(local, requests, out)
    if local is not core:
        await local.aclose()

    assert (report.done, report.images, report.stopped_by, again) == (60, 60, None, [])
    emulator.assert_charged_once()
    assert len(list((out / "images").rglob("*.svg"))) == 60
    note = "image 1: not a raster image that can be checked: kept as .svg"
    assert all(outcome.generation.problems == (note,) for outcome in outcomes if outcome.generation)
    row = view(out, "metadata")[0]
    assert (row["media_type"], row["width"], row["height"]) == ("image/svg+xml", None, None)
    pages = [page.read_text() for page in out.rglob("page-*.js")]
    assert pages
    assert not any('"src":"' in page for page in pages)


@pytest.mark.parametrize("fault", ["b64_garbage", "data_empty", "cut:50"])
async def test_answers_that_cannot_be_used_stop_a_batch(
    fault: str, emulator: Emulator, tmp_path: Path
) -> None:
    """Ten in a row are enough to see that the gateway and we do not fit: no more is bought."""
    emulator.fail(fault)
    core = core_on(emulator, concurrency=4)
    outcomes, report = await run_all(core, b64(*map(str, range(60))), tmp_path / "out")
    await core.aclose()

    assert report.stopped_by == "spoiled"
    assert "10 answers in a row were paid for and cannot be used" in str(report.problem)
    assert 10 <= emulator.ledger.total.charged <= 14
    assert report.unknown == report.charged_yes == len(outcomes) == emulator.ledger.total.charged


async def test_a_usable_answer_lets_a_batch_go_on(emulator: Emulator, tmp_path: Path) -> None:
    """The run of bad answers is counted from the last good one."""
    emulator.fail(FaultRule(fault="data_empty", prompt="bad"))
    core = core_on(emulator, concurrency=1)
    prompts = [f"{'good' if number % 10 == 9 else 'bad'} {number}" for number in range(30)]
    _, report = await run_all(core, b64(*prompts), tmp_path / "out")
    await core.aclose()

    assert (report.stopped_by, report.done, report.unknown) == (None, 3, 27)


async def test_half_an_image_is_kept_and_is_none_of_the_dataset(
    emulator: Emulator, core: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is listed as paid for and not done, with its file, and no program takes it for a whole."""
    out = tmp_path / "out"
    whole = drawing.draw
    monkeypatch.setattr("imagen_async.emulator.file_store.draw", lambda recipe: whole(recipe)[:-5])
    outcomes, report = await run_all(core, b64("a"), out)

    assert (report.done, report.unknown, report.charged_yes) == (0, 1, 1)
    assert isinstance(outcomes[0].error, SpoiledAnswerError)
    (row,) = view(out, "unknown")
    (name,) = row["files"]
    assert name.endswith(".cut.png")
    assert (out / name).is_file()
    assert view(out, "metadata") == []


async def test_a_limit_takes_the_first_rows_and_can_be_raised(core: Any, tmp_path: Path) -> None:
    """The limit counts rows of the input, and the same run goes on with a higher one."""
    out = tmp_path / "out"
    outcomes, report = await run_all(core, b64(*"0123"), out, limit=2)
    assert sorted(outcome.index for outcome in outcomes) == [0, 1]
    assert (report.total, report.partial) == (2, False)

    outcomes, report = await run_all(core, b64(*"0123"), out, limit=3)
    assert [outcome.index for outcome in outcomes] == [2]


async def test_rows_that_may_be_paid_for_are_refused_elsewhere(
    emulator: Emulator, core: Any, tmp_path: Path
) -> None:
    """An unknown.jsonl fed to a new folder is not sent again in silence."""
    first, second = tmp_path / "first", tmp_path / "second"
    emulator.fail_next("drop")
    await run_all(core, b64("a"), first)
    (outcome,), _ = await run_all(core, read_source(first / "unknown.jsonl"), second)
    assert isinstance(outcome.error, InvalidRequestError)
    assert outcome.error.charge is Charge.MAYBE
    assert emulator.ledger["a"].posts == 1
    assert view(second, "failed") == []

    (outcome,), _ = await run_all(
        core, read_source(second / "unknown.jsonl"), second, on_unknown="resend"
    )
    assert outcome.ok
    assert emulator.ledger["a"].posts == 2
    assert len(emulator.ledger["a"].keys) == 1


async def test_leaving_early_drains_what_is_in_flight(tmp_path: Path) -> None:
    """What was sent is waited for and journalled, nothing new is sent."""
    out = tmp_path / "out"
    async with Emulator(draw="tiny", latency=0.03) as emulator:
        core = core_on(emulator, concurrency=4)
        run = Run(core, b64(*"0123456789abcdef"), out, RunOptions(gallery=False))
        async with run:
            async for _ in run:
                break
        await core.aclose()

    assert run.report.stopped_by == "left"
    assert run.report.partial
    assert run.report.unknown == 0
    assert run.report.done == emulator.ledger.total.charged == len(images(out)) < 16


async def test_a_stop_drains_and_yields(tmp_path: Path) -> None:
    """After stop the loop over outcomes ends by itself with all that was sent."""
    async with Emulator(draw="tiny", latency=0.03) as emulator:
        core = core_on(emulator, concurrency=4)
        run, outcomes = Run(core, b64(*"0123456789abcdef"), tmp_path / "out"), 0
        async with run:
            async for _ in run:
                outcomes += 1
                run.stop("interrupted")
        await core.aclose()

    assert run.report.stopped_by == "interrupted"
    assert outcomes == run.report.done == emulator.ledger.total.charged


async def test_a_stop_does_not_wait_at_a_closed_gate(tmp_path: Path) -> None:
    """Calls that wait for a refused server go back instead of holding up the end."""
    async with Emulator(draw="tiny") as emulator:
        emulator.fail("retry_after:3600")
        core = core_on(emulator, concurrency=4)
        run = Run(core, b64(*"01234567"), tmp_path / "out")
        async with asyncio.timeout(10), run:
            while emulator.ledger.total.posts == 0:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.02)
            run.stop("interrupted")
            assert [outcome async for outcome in run] == []
        await core.aclose()

    assert (run.report.done, run.report.failed, run.report.unknown) == (0, 0, 0)
    assert run.report.pending > 0


async def test_cancellation_leaves_unknown_what_was_sent(tmp_path: Path) -> None:
    """An outer cancellation does not wait; each sent item is listed as unknown, maybe charged."""
    out = tmp_path / "out"
    async with Emulator(draw="tiny", latency=30.0) as emulator:
        core = core_on(emulator, concurrency=3)
        run = Run(core, b64(*"0123456789"), out)

        async def work() -> None:
            async with run:
                async for _ in run:
                    pass

        task = asyncio.create_task(work())
        while emulator.ledger.total.posts < 3:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(5):
                await task
        await core.aclose()

    assert run.report.unknown == run.report.charged_maybe == 3
    async with Emulator(draw="tiny", port=int(emulator.origin.rpartition(":")[2])) as emulator:
        core = core_on(emulator)
        _, report = await run_all(core, b64(*"0123456789"), out)
        await core.aclose()
    assert (report.done, report.unknown) == (7, 3)
    assert len(view(out, "unknown")) == 3


async def test_an_error_in_the_block_drains_and_comes_out(core: Any, tmp_path: Path) -> None:
    """The caller's own exception is the one that is raised, after the drain."""
    run = Run(core, b64("0", "1"), tmp_path / "out")

    async def work() -> None:
        async with run:
            async for _ in run:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await work()
    assert run.report.unknown == 0


async def test_a_full_disk_stops_the_intake(
    emulator: Emulator, core: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The item is unknown, charged, its error names the path, and no file is torn."""
    out, real = tmp_path / "out", disk.write_all

    def full(descriptor: int, data: Any) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(disk, "write_all", full)
    outcomes, report = await run_all(core, b64(*"0123456789"), out)
    monkeypatch.setattr(disk, "write_all", real)

    assert report.stopped_by == "disk"
    assert report.done == 0
    assert 1 <= report.unknown == report.charged_yes <= 4
    assert all("images" in str(outcome.error) for outcome in outcomes)
    handed = [image.data for outcome in outcomes if outcome.error for image in outcome.error.images]
    assert [data[:4] for data in handed if data] == [b"\x89PNG"] * emulator.ledger.total.images
    assert {row["error"]["charge"] for row in view(out, "unknown")} == {"yes"}
    assert images(out) == []
    assert not list((out / "images").rglob("*.part"))
    _, report = await run_all(core, b64(*"0123456789"), out)
    assert report.done + report.unknown == 10


async def test_a_disk_that_fails_at_the_start_is_told_in_a_line(
    emulator: Emulator, core: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is sent, the folder is named, and the same command works once there is room."""
    full = Mock(side_effect=OSError(errno.ENOSPC, "full"))
    with monkeypatch.context() as patch:
        patch.setattr(lists, "write_whole", full)
        with pytest.raises(ConfigurationError, match=r"cannot write to .*/out: No space left"):
            await run_all(core, ["a"], tmp_path / "out")
    assert emulator.ledger.total.posts == 0
    _, report = await run_all(core, ["a"], tmp_path / "out")
    assert report.done == 1


async def test_an_endpoint_is_kept(emulator: Emulator, core: Any, tmp_path: Path) -> None:
    """Going on with another endpoint is refused, and both are named."""
    out = tmp_path / "out"
    await run_all(core, b64("a"), out)

    with pytest.raises(ConfigurationError, match=r"emulator") as caught:
        await run_all(core, b64("a"), out, emulator=True)
    assert emulator.base_url in str(caught.value)
    assert (await run_all(core, b64("a"), out))[1].ok


async def test_two_runs_at_once_are_refused(core: Any, tmp_path: Path) -> None:
    """The second one says that another process has the folder, and the first goes on."""
    async with Run(core, b64("a"), tmp_path / "out") as run:
        with pytest.raises(ConfigurationError, match="another process"):
            await run_all(core, b64("b"), tmp_path / "out")
        assert [outcome.ok async for outcome in run] == [True]


async def test_foreign_folders_are_refused(core: Any, tmp_path: Path) -> None:
    """Neither a folder with something else in it nor a file is taken; an empty folder is."""
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("x")
    (tmp_path / "empty").mkdir()

    for name, says in (("taken", "not empty"), ("taken/thesis.txt", "cannot hold")):
        with pytest.raises(ConfigurationError, match=says):
            await run_all(core, b64("a"), tmp_path / name)
    assert (await run_all(core, b64("a"), tmp_path / "empty"))[1].ok


async def test_the_plan_tells_what_a_run_would_do(
    emulator: Emulator, core: Any, tmp_path: Path
) -> None:
    """It counts rows by fate, makes nothing in a new folder, and sends nothing."""
    out = tmp_path / "out"
    plan = await Run(core, ["a", "", *b64("b", n=3)], out, RunOptions(price_per_image=2)).plan()
    assert (plan.rows, plan.to_send, plan.invalid, plan.images, plan.cost) == (3, 2, 1, 4, 8)
    assert not out.exists()

    emulator.fail_next("drop", prompt="lost")
    emulator.fail_next("status:400", prompt="bad")
    await run_all(core, ["good", "lost", "bad"], out)
    posts = emulator.ledger.total.posts
    requests = ["good", "lost", "bad", "new"]
    plan = await Run(core, requests, out).plan()
    assert (plan.done, plan.unknown, plan.failed, plan.to_send, plan.resend) == (1, 1, 1, 1, 0)
    options = RunOptions(on_unknown="resend", retry_failed=True)
    plan = await Run(core, requests, out, options).plan()
    assert (plan.done, plan.to_send, plan.resend) == (1, 3, 1)
    assert emulator.ledger.total.posts == posts


async def test_nothing_secret_is_on_disk(emulator: Emulator, core: Any, tmp_path: Path) -> None:
    """The key is in no file of the folder, and only its owner can read the journal."""
    out = tmp_path / "out"
    await run_all(core, b64("a"), out, gallery=True)

    assert not [
        path
        for path in out.rglob("*")
        if path.is_file() and b"sk-secret-canary" in path.read_bytes()
    ]
    assert stat.S_IMODE((out / "journal.sqlite3").stat().st_mode) == 0o600
    assert (out / "index.html").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"budget": 1.0},
        {"price_per_image": 0},
        {"price_per_image": math.nan},
        {"limit": 0},
        {"limit": 1.5},
        {"max_failures": True},
        {"on_unknown": "pray"},
    ],
)
def test_options_out_of_range_are_refused(options: Any) -> None:
    """Each is refused before anything is opened."""
    with pytest.raises(ConfigurationError):
        RunOptions(**options)


async def test_a_failed_journal_stops_new_posts(
    emulator: Emulator, core: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be journalled is not sent; what was sent is saved, and adopted later."""
    out = tmp_path / "out"
    core = core_on(emulator, concurrency=1)
    run = Run(core, b64(*"012345"), out)
    async with run:
        outcomes = [await run.__anext__()]
        journal = run._inside.context.journal
        await journal.call(lambda view: view.connection.execute("PRAGMA query_only = 1"))
        outcomes += [outcome async for outcome in run]
        await journal.call(lambda _: None) if journal.broken is None else None
    await core.aclose()
    assert run.report.stopped_by == "journal"
    assert all(outcome.ok for outcome in outcomes)
    assert emulator.ledger.total.charged == len(outcomes) == len(images(out))


async def test_the_journal_is_one_that_sqlite_reads(core: Any, tmp_path: Path) -> None:
    """Anyone with SQLite can look at a finished run."""
    await run_all(core, b64("a"), tmp_path / "out")

    rows = execute(tmp_path / "out", "SELECT state, charge, images FROM item")
    assert rows == [("done", 2, 1)]


async def test_nothing_is_sent_without_its_commit(
    emulator: Emulator, core: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the very commit before a POST fails, no byte of it leaves, and nothing counts as spent."""

    async def sending(*_: Any, **__: Any) -> None:
        raise ConfigurationError("The journal cannot be written.")

    monkeypatch.setattr(SqliteJournal, "sending", sending)
    outcomes, report = await run_all(core, b64("a", "b"), tmp_path / "out")

    assert (outcomes, report.stopped_by, report.spent) == ([], "journal", 0)
    assert emulator.ledger.total.posts == 0


async def test_a_closed_client_stops_the_batch(core: Any, tmp_path: Path) -> None:
    """Its items are not failed: they go back."""
    await core.aclose()
    outcomes, report = await run_all(core, b64("a", "b"), tmp_path / "out")

    assert (outcomes, report.stopped_by, report.failed) == ([], "client", 0)
    assert report.pending > 0


async def test_a_number_past_all_counting_stops_nothing(core: Any, tmp_path: Path) -> None:
    """A gateway that refuses it costs that row alone; the journal counts on."""
    rows: Any = [{"prompt": "a", "n": 10**30}, {"prompt": "b", "extra": {"n": 10**30}}, "c"]
    _, report = await run_all(core, rows, tmp_path / "out")

    assert (report.done, report.failed, report.invalid, report.problem) == (1, 2, 1, None)


async def test_a_request_that_json_cannot_carry_is_refused(core: Any, tmp_path: Path) -> None:
    """It is that row's error, and the others run."""
    bad = GenerationRequest("a", extra={"x": object()})
    outcomes, report = await run_all(core, [bad, *b64("b")], tmp_path / "out")

    assert {type(outcome.error) for outcome in outcomes} == {InvalidRequestError, type(None)}
    assert (report.done, report.invalid) == (1, 1)


async def test_a_plan_knows_what_a_dead_run_left(
    emulator: Emulator, core: Any, tmp_path: Path
) -> None:
    """What was under way will be held as unknown, links are downloaded."""
    out = tmp_path / "out"
    emulator.fail_next("file_expired", prompt="link")
    await run_all(core, ["link", *b64("cut")], out)
    execute(out, "UPDATE item SET state = 'sending' WHERE state = 'done'")

    plan = await Run(core, ["link", *b64("cut")], out).plan()
    assert (plan.downloads, plan.unknown, plan.to_send, plan.rows) == (1, 1, 0, 2)
    plan = await Run(core, b64("cut"), out, RunOptions(on_unknown="resend")).plan()
    assert (plan.to_send, plan.resend) == (1, 1)


async def test_outcomes_can_be_taken_in_lots(core: Any, tmp_path: Path) -> None:
    """Lots hold what is ready, and an empty one is the end; outside its block a run is an error."""
    run = Run(core, b64(*"0123456789"), tmp_path / "out")
    with pytest.raises(ConfigurationError, match="async with"):
        await run.take(1)
    async with run:
        lots = [await run.take(4)]
        while lots[-1]:
            lots.append(await run.take(4))

    assert sum(map(len, lots)) == 10
    assert max(map(len, lots)) <= 4
    assert run.report.stopped_by is None
    assert run.folder == tmp_path / "out"
