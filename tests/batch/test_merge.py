"""One folder over all shards, and how a batch stands while it runs and after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from imagen_async import AsyncImagen, Limits, Shard
from imagen_async.batch import schema
from imagen_async.batch.gallery.views import read_rows
from imagen_async.batch.lists import lines
from imagen_async.batch.merge import merge
from imagen_async.batch.records import Item, KeptAnswer, KeptImage, RequestRow
from imagen_async.batch.shards import all_shards
from imagen_async.batch.states import State
from imagen_async.batch.status import batch_status, whole_rows
from imagen_async.batch.workers import take
from imagen_async.cli.gallery import gallery
from imagen_async.emulator import Emulator
from imagen_async.errors import ConfigurationError
from imagen_async.wire.request import GenerationRequest
from tests.batch.runs import core_on, run_all, view

PROMPTS = [f"prompt {number}" for number in range(24)]
OF = 3


async def run_shards(emulator: Emulator, out: Path, *, indexes: Any = range(OF), **options: Any):
    async with AsyncImagen(base_url=emulator.base_url, api_key="") as imagen:
        for index in indexes:
            async with imagen.batch(
                PROMPTS, out=out, shard=Shard(index, of=OF), gallery=False, **options
            ) as run:
                async for _ in run:
                    pass


async def test_merge_lists_every_item_once(tmp_path: Path, emulator: Emulator) -> None:
    """The lists over all shards hold each item once, each file is there, and nothing is bought."""
    emulator.fail_next("400", prompt="prompt 7", times=9)
    emulator.fail_next("504", prompt="prompt 8", times=9)
    await run_shards(emulator, tmp_path, price_per_image=0.5)
    sent = len(emulator.requests)
    for _ in range(2):
        status = merge(tmp_path)
    assert len(emulator.requests) == sent

    rows = {name: view(tmp_path, name) for name in ("metadata", "failed", "unknown")}
    prompts = [row["prompt"] for found in rows.values() for row in found]
    assert sorted(prompts) == sorted(PROMPTS)
    assert [row["prompt"] for row in rows["failed"]] == ["prompt 7"]
    assert [row["prompt"] for row in rows["unknown"]] == ["prompt 8"]
    for row in rows["metadata"]:
        assert (tmp_path / row["file_name"]).stat().st_size == row["bytes"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report == status.as_json()
    assert (report["total"], report["done"], report["failed"], report["unknown"]) == (24, 22, 1, 1)
    assert (report["spent"], report["cost"], report["partial"]) == (23, 11.5, False)
    assert report["phases"] == {"ended": OF}
    page = "".join(path.read_text() for path in (tmp_path / "gallery").rglob("*.js"))
    assert "shard-0001-of-0003/images/" in page
    assert "--retry-failed" not in (tmp_path / "index.html").read_text().split("<script")[0]


async def test_two_merges_at_once(tmp_path: Path, emulator: Emulator) -> None:
    """The second is refused before it touches what the first one writes."""
    await run_shards(emulator, tmp_path)
    writing = tmp_path / ".metadata.jsonl.part"
    with ExitStack() as stack:
        assert take(tmp_path / ".merge", stack)
        writing.write_text("half")
        with pytest.raises(ConfigurationError, match="being merged by another process"):
            merge(tmp_path)
        assert writing.read_text() == "half"
    assert merge(tmp_path).report.done == len(PROMPTS)


async def test_shards_that_have_not_run_leave_the_batch_partial(
    tmp_path: Path, emulator: Emulator
) -> None:
    """What no shard has begun is missing from the lists, and the report says so."""
    await run_shards(emulator, tmp_path, indexes=[1])
    status = merge(tmp_path)
    assert status.phases("not begun") == ["shard-0000-of-0003", "shard-0002-of-0003"]
    assert status.report.partial
    assert not status.report.ok
    assert len(view(tmp_path, "metadata")) == status.report.done


async def test_a_budget_that_is_left_over_is_told(tmp_path: Path, emulator: Emulator) -> None:
    """What the shares of shards that are at their end did not need is counted as idle."""
    await run_shards(emulator, tmp_path, price_per_image=1.0, budget=40.0)
    told = batch_status(tmp_path).as_json()
    assert (told["share"], told["spent"], told["idle"]) == (40, 24, 16)


async def test_status_while_a_run_holds_its_folder(tmp_path: Path, emulator: Emulator) -> None:
    """Who runs is told, with the counts of the lists; merge takes those, too."""
    await run_shards(emulator, tmp_path, indexes=[0])
    async with (
        AsyncImagen(base_url=emulator.base_url, api_key="", limits=Limits(concurrency=1)) as imagen,
        imagen.batch(PROMPTS, out=tmp_path, shard=Shard(1, of=OF), gallery=False) as run,
    ):
        for _ in range(2):
            await anext(run)
        status = batch_status(tmp_path)
        assert status.running == ["shard-0001-of-0003"]
        assert [folder.phase for folder in status.folders] == ["ended", "running", "not begun"]
        running = status.folders[1]
        listed = sum(1 for _ in read_rows(run.folder / "metadata.jsonl"))
        assert sum(count.items for count in running.counts) == listed >= 1
        assert status.report.spent == status.report.images  # those of the shard that runs, too
        merged = merge(tmp_path, gallery=False)
        names = [row["file_name"] for row in view(tmp_path, "metadata")]
        assert len(names) == merged.report.done == merged.report.images
        assert all((tmp_path / name).exists() for name in names)
    assert batch_status(tmp_path).folders[1].phase == "stopped"


def test_a_killed_run_shows_what_is_in_doubt(tmp_path: Path) -> None:
    """After a kill status and merge list what was under way, and change no shard's fate."""
    script = """
import asyncio, sys
from imagen_async import AsyncImagen, Limits, Shard
async def main():
    limits = Limits(concurrency=4)
    async with AsyncImagen(base_url=sys.argv[1], api_key="", limits=limits) as imagen:
        prompts = [f"prompt {number}" for number in range(24)]
        async with imagen.batch(prompts, out=sys.argv[2], shard=Shard(0, of=1)) as run:
            print("begun", flush=True)
            async for _ in run: pass
asyncio.run(main())
"""
    out = tmp_path / "out"
    with Emulator(draw="tiny", latency=30.0) as emulator:
        command = [sys.executable, "-c", script, emulator.base_url, str(out)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            while len(emulator.requests) < 4:
                os.sched_yield()
            assert batch_status(out).running == ["shard-0000-of-0001"]
            child.send_signal(signal.SIGKILL)
    for _ in range(2):
        status = merge(out)
        assert status.phases("cut off") == ["shard-0000-of-0001"]
        assert (status.report.unknown, status.report.partial) == (4, True)
        assert len(view(out, "unknown")) == 4


async def test_status_of_a_plain_run(tmp_path: Path, core: Any) -> None:
    """A batch without shards is told the same way; a folder of other things is no batch."""
    await run_all(core, PROMPTS, tmp_path / "out", price_per_image=0.25)
    status = batch_status(tmp_path / "out")
    assert [folder.phase for folder in status.folders] == ["ended"]
    assert (status.report.done, status.report.cost, status.shards) == (24, 6.0, None)
    assert "shards" not in status.as_json()
    with pytest.raises(ConfigurationError, match="without shards"):
        merge(tmp_path / "out")
    for look in (merge, batch_status):
        with pytest.raises(ConfigurationError, match="holds no"):
            look(tmp_path)


async def test_a_stop_is_told_over_all_shards(tmp_path: Path, emulator: Emulator) -> None:
    """Why a shard stopped is in the report of all."""
    core = core_on(emulator)
    emulator.fail("402")
    await run_shards(emulator, tmp_path, indexes=[0])
    await core.aclose()
    report = batch_status(tmp_path).report
    assert report.stopped_by == "quota"
    assert report.problem
    assert len(list(all_shards(OF))) == OF


@pytest.mark.parametrize("lost", ["metadata", "failed", "unknown"])
async def test_lists_that_tell_less_than_the_journal_are_not_believed(
    tmp_path: Path, emulator: Emulator, lost: str
) -> None:
    """A shard's lists are taken as they are only if no row is missing or left over in them."""
    emulator.fail_next("400", prompt="prompt 7", times=9)
    emulator.fail_next("504", prompt="prompt 8", times=9)
    await run_shards(emulator, tmp_path)
    merge(tmp_path, gallery=False)
    names = ("metadata", "failed", "unknown")
    before = {name: sorted(map(str, view(tmp_path, name))) for name in names}
    for path in tmp_path.glob(f"shard-*/{lost}.jsonl"):
        text = path.read_bytes()
        path.write_bytes(text[: text.rfind(b"\n", 0, -1) + 1])
    merge(tmp_path, gallery=False)
    assert {name: sorted(map(str, view(tmp_path, name))) for name in names} == before


async def test_a_retry_that_was_killed_is_in_doubt(tmp_path: Path, emulator: Emulator) -> None:
    """What had failed and was under way again at a kill is unknown, though a list says failed."""
    emulator.fail_next("400", prompt="prompt 7", times=9)
    await run_shards(emulator, tmp_path)
    for folder in tmp_path.glob("shard-*"):
        connection = schema.connect(folder)
        connection.execute("UPDATE item SET state = 'sending', charge = 1 WHERE state = 'failed'")
        schema.close(connection)
    status = merge(tmp_path, gallery=False)
    assert (status.report.failed, status.report.unknown) == (0, 1)
    assert view(tmp_path, "failed") == []
    assert [row["error"]["charge"] for row in view(tmp_path, "unknown")] == ["maybe"]


def test_names_of_files_are_as_seen_from_above(tmp_path: Path) -> None:
    """Whole lines of a shard's lists get its folder before each file; a torn line is left out."""
    (tmp_path / "metadata.jsonl").write_bytes(
        b'{"file_name": "images/a.png", "id": null}\n'
        b'{"file_name": "images/b.pn\n'
        b'{"file_name": "images/c.png", "id": "\xc3\xa9"}\n'
        b'{"file_name": "images/d.png"}'
    )
    (tmp_path / "unknown.jsonl").write_text('{"prompt": "a", "files": ["images/e.png"]}\n{"pro')
    found = list(whole_rows(tmp_path, "shard/"))
    assert [json.loads(line) for _, line in found] == [
        {"file_name": "shard/images/a.png", "id": None},
        {"file_name": "shard/images/c.png", "id": "é"},
        {"prompt": "a", "files": ["shard/images/e.png"]},
    ]
    assert [name for name, _ in found] == ["metadata.jsonl"] * 2 + ["unknown.jsonl"]


def test_files_of_an_item_in_doubt_are_named_from_above() -> None:
    """What the journal tells has the shard's folder before each file, too."""
    image = KeptImage(file_name="images/a.png", bytes=1)
    item = Item(bytes(16), 0, RequestRow(GenerationRequest("a")), state=State.UNKNOWN)
    item.answer = KeptAnswer(images=(image,))
    rows = {name: json.loads(line) for name, line in lines(item, "shard/")}
    assert rows["metadata.jsonl"]["file_name"] == "shard/images/a.png"
    assert rows["unknown.jsonl"]["files"] == ["shard/images/a.png"]


async def test_a_read_only_batch_is_told(
    tmp_path: Path, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the journal's lock cannot be taken, one line says what to do."""
    await run_shards(emulator, tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    for look in (merge, batch_status):
        with pytest.raises(ConfigurationError, match=r"read-only.*copy the folder"):
            look(tmp_path)


def test_a_page_that_the_disk_does_not_take(tmp_path: Path) -> None:
    """The command that writes a gallery says in one line what the disk refused, or what lacks."""
    (tmp_path / "metadata.jsonl").touch()
    (tmp_path / "gallery").touch()
    with pytest.raises(ConfigurationError, match=r"cannot write to .*exists"):
        gallery(str(tmp_path), live=False, show=False)
    (tmp_path / "metadata.jsonl").rename(tmp_path / "run.json")
    with pytest.raises(ConfigurationError, match="no lists yet; imagen-async merge"):
        gallery(str(tmp_path), live=False, show=False)


async def test_a_disk_that_does_not_take_the_lists_is_told(
    tmp_path: Path, emulator: Emulator
) -> None:
    """A merge that cannot write says so in a line, and the lists before it stay."""
    await run_shards(emulator, tmp_path)
    merge(tmp_path, gallery=False)
    before = (tmp_path / "metadata.jsonl").read_bytes()
    (tmp_path / ".failed.jsonl.part").mkdir()
    with pytest.raises(ConfigurationError, match="cannot write to"):
        merge(tmp_path)
    assert (tmp_path / "metadata.jsonl").read_bytes() == before
