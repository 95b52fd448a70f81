"""The gallery that is there while its run goes on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen_async.batch.gallery import rewriting, write_gallery
from imagen_async.batch.gallery.rewriting import SHARE, Rewriter, may_write
from imagen_async.batch.run import Run
from imagen_async.emulator import Emulator
from tests.batch.runs import b64, core_on, view
from tests.batch.test_gallery import fill, manifest_of, row, rows_of

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = st.floats(0, 1e5)


@given(SECONDS, SECONDS, SECONDS)
def test_writing_takes_a_bounded_share(elapsed: float, spent: float, expected: float) -> None:
    """A writing begins when all of them, it included, are within their share of the run."""
    assert not may_write(elapsed, SHARE * elapsed, expected + 1e-9)
    if may_write(elapsed, spent, expected):
        assert spent + expected <= SHARE * elapsed
        assert may_write(elapsed + 1, spent, expected)


async def test_the_page_is_there_from_the_first_image(tmp_path: Path) -> None:
    """While the run goes on its page shows what is here and says so; at the end it is whole."""
    out = tmp_path / "out"
    async with Emulator(draw="tiny") as emulator:
        core = core_on(emulator, concurrency=1)
        run = Run(core, b64("a", "b", "c"), out)
        async with asyncio.timeout(20), run:
            await anext(run)
            run.pause()
            while not (out / "index.html").exists():
                await asyncio.sleep(0.02)
            assert manifest_of(out)["phase"] == "running"
            assert len(rows_of(out)) in (1, 2)  # what was in flight may be here by now
            run.resume()
            async for _ in run:
                pass
        await core.aclose()
    assert not manifest_of(out)["phase"]
    assert len(rows_of(out)) == 3
    assert len(list((out / "gallery").iterdir())) == 1


async def test_the_page_of_a_cancelled_run_says_so(tmp_path: Path) -> None:
    """A run that is cancelled leaves a page that no longer says that it goes on."""
    out = tmp_path / "out"
    async with Emulator(draw="tiny") as emulator:
        core = core_on(emulator, concurrency=1)
        run = Run(core, b64("a", "b", "c"), out)
        with anyio.CancelScope() as scope:
            async with asyncio.timeout(20), run:
                await anext(run)
                while not (out / "index.html").exists():
                    await asyncio.sleep(0.02)
                run.stop("interrupted")
                scope.cancel()
                await asyncio.sleep(60)
        await core.aclose()
    manifest = manifest_of(out)
    assert manifest["phase"] == "interrupted"
    assert manifest["report"]["stopped_by"] == "interrupted"
    assert rows_of(out)


async def test_more_images_are_shown_later(tmp_path: Path, monkeypatch: Any) -> None:
    """The page is written again once lines were added, not while none were, of the latest rows."""
    monkeypatch.setattr(rewriting, "EVERY", 0.01)
    monkeypatch.setattr(rewriting, "SHARE", 1.0)
    folder = fill(tmp_path / "shots", [row(1)])
    write_gallery(folder)
    rewriter = Rewriter(folder)
    rewriter.start()
    await until_rows(folder, 1)
    before = (folder / "index.html").stat().st_ino
    await asyncio.sleep(0.1)
    assert (folder / "index.html").stat().st_ino == before
    monkeypatch.setattr(rewriting, "LATEST", 2000)
    fill(folder, [row(n) for n in range(3000)])
    await until_rows(folder, 6)
    await rewriter.aclose()
    assert [card["id"] for card in rows_of(folder)] == [f"row-{n}" for n in range(2994, 3000)]
    assert manifest_of(folder)["listed"] == {"done": 3000}


@pytest.mark.parametrize("trouble", [KeyError("a bug"), OSError("a full disk"), None])
async def test_a_page_that_cannot_be_written_stops_nothing(
    tmp_path: Path, monkeypatch: Any, trouble: Exception | None
) -> None:
    """Neither an error nor the end of its task keeps a run from its images, lists and end."""

    def fail(*_: Any) -> None:
        if trouble is not None:
            raise trouble

    monkeypatch.setattr(rewriting, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(rewriting, "write_page", fail)
    async with Emulator(draw="tiny", latency=0.05) as emulator:
        core = core_on(emulator, concurrency=1)
        run = Run(core, b64("a", "b", "c"), tmp_path / "out")
        async with asyncio.timeout(20), run:
            async for _ in run:
                if trouble is None and run._page._task is not None:
                    run._page._task.cancel()
        await core.aclose()
    assert run.report.done == 3
    assert len(rows_of(tmp_path / "out")) == 3
    assert len(view(tmp_path / "out", "metadata")) == 3


async def until_rows(folder: Path, count: int) -> None:
    """Wait until the page of a running batch shows so many cards."""
    async with asyncio.timeout(10):
        while not manifest_of(folder)["phase"] or len(rows_of(folder)) != count:
            await asyncio.sleep(0.01)


async def test_the_end_does_not_wait_for_a_large_page(tmp_path: Path, monkeypatch: Any) -> None:
    """A writing that goes on as the run ends is given up and leaves the older page."""
    folder = fill(tmp_path / "shots", [row(n) for n in range(50)])
    rewriter = Rewriter(folder)
    rewriter._ended.set()
    rewriter._write()
    assert not (folder / "index.html").exists()
    assert list((folder / "gallery").iterdir()) == []
