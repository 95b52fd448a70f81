"""Runs that are cut off, or whose disk fails, at every step, and what a resume does."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from imagen_async.batch import journal as journal_module
from imagen_async.batch.identity import body_digest, item_id
from imagen_async.batch.item_files import ItemFiles, rescue
from imagen_async.batch.records import Item, KeptImage, RequestRow
from imagen_async.emulator import Emulator
from imagen_async.errors import ConfigurationError
from imagen_async.storage import disk
from imagen_async.wire.image_header import inspect
from imagen_async.wire.request import GenerationRequest
from tests.batch.runs import CHILD, core_on, execute, images, run_all, view

CONCURRENCY = 2
STEPS = ("open_part", "write_all", "sync", "place", "sync_folder")
REQUESTS = [
    GenerationRequest("two at once", response_format="b64_json", n=2),
    GenerationRequest("a link", response_format="url"),
    GenerationRequest("refused first", response_format="b64_json"),
    GenerationRequest("two links", response_format="url", n=2),
    GenerationRequest("never works", response_format="b64_json"),
]


class Cuts:
    """Copies a run's folder before and after each step, as a kill at that moment would leave it."""

    def __init__(self, out: Path, copies: Path, emulator: Emulator) -> None:
        self.points: list[tuple[str, Path, set[str]]] = []
        self._out, self._copies, self._emulator = out, copies, emulator
        # The journal's file and its log are copied with no commit between the two.
        self._lock = threading.RLock()

    def cut(self, name: str) -> None:
        with self._lock:
            ledger = self._emulator.ledger
            paid = {prompt for prompt, account in ledger.items() if account.posts > account.refused}
            copy = self._copies / str(len(self.points))
            shutil.copytree(self._out, copy)
            self.points.append((name, copy, paid))

    def around(self, name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                if not (self._out / "run.json").exists():
                    return step(*args, **kwargs)
                self.cut(f"before {name}")
                result = step(*args, **kwargs)
                self.cut(f"after {name}")
                return result

        return wrapped


def assert_sound(out: Path) -> None:
    """No file is torn, none is left over, and the list of images is true."""
    assert not list(out.rglob("*.part"))
    assert all(inspect(path.read_bytes()).complete for path in images(out))
    rows = view(out, "metadata")
    assert sorted(out / row["file_name"] for row in rows) == images(out)
    for row in rows:
        data = (out / row["file_name"]).read_bytes()
        assert row["sha256"] == hashlib.sha256(data).hexdigest()


async def test_a_kill_at_any_step_costs_no_image_and_buys_none_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From each of 60 and more cuts the run goes on to the right end."""
    out = tmp_path / "out"
    async with Emulator(draw="tiny") as emulator:
        emulator.fail_next("429", prompt="refused first")
        emulator.fail_next("status:400", prompt="never works")
        cuts = Cuts(out, tmp_path / "copies", emulator)
        with monkeypatch.context() as patch:
            for name in STEPS:
                patch.setattr(disk, name, cuts.around(name, getattr(disk, name)))
            patch.setattr(journal_module, "_run", cuts.around("commit", journal_module._run))
            core = core_on(emulator, concurrency=CONCURRENCY)
            _, report = await run_all(core, REQUESTS, out, emulator=True)
            await core.aclose()
        assert (report.done, report.failed) == (4, 1)
        assert len(cuts.points) >= 60

        for name, copy, paid in cuts.points:
            async with Emulator(draw="tiny") as second:
                core = core_on(second, concurrency=CONCURRENCY, allow_private=True)
                _, report = await run_all(core, REQUESTS, copy, emulator=True)
                await core.aclose()
            again = set(second.ledger)
            assert not again & paid, f"{name}: bought twice"
            doubted = {row["prompt"] for row in view(copy, "unknown")}
            failed = {row["prompt"] for row in view(copy, "failed")}
            unpaid = {request.prompt for request in REQUESTS} - paid
            assert again >= unpaid - doubted - failed, f"{name}: not sent"
            assert report.unknown <= CONCURRENCY, name
            assert report.total == len(REQUESTS), name
            assert report.pending == 0, name
            assert_sound(copy)


@pytest.mark.parametrize("step", STEPS)
async def test_a_disk_that_fails_at_any_step_tears_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Each call of the step fails once in a run of its own: nothing torn, nothing bought twice."""
    for failing in range(1, 12):
        out, calls = tmp_path / str(failing), 0
        real = getattr(disk, step)

        def fail(
            *args: Any, real: Any = real, failing: int = failing, out: Path = out, **kwargs: Any
        ) -> Any:
            nonlocal calls
            if (out / "images").exists() or step == "open_part":
                calls += 1
                if calls == failing:
                    number = errno.ENOSPC if failing % 2 else errno.EIO
                    raise OSError(number, os.strerror(number))
            return real(*args, **kwargs)

        async with Emulator(draw="tiny") as emulator:
            core = core_on(emulator, concurrency=CONCURRENCY)
            with monkeypatch.context() as patch:
                patch.setattr(disk, step, fail)
                _, first = await run_all(core, REQUESTS, out, emulator=True)
            _, second = await run_all(core, REQUESTS, out, emulator=True)
            await core.aclose()

        if calls < failing:
            break
        assert first.unknown >= second.unknown
        assert second.done + second.unknown == len(REQUESTS)
        emulator.assert_charged_once()
        assert_sound(out)
    assert failing > 1


def left_behind(
    out: Path, request: GenerationRequest, numbers: list[int | None], home: str = "00"
) -> bytes:
    """Make a run's folder as a kill leaves it: one item sending, some of its images named."""
    identity = item_id(body_digest(request), 1)
    folder = out / "images" / home
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        name = f"a-{identity.hex()[:12]}{'' if number is None else f'-{number}'}.png"
        (folder / name).write_bytes(picture())
    return identity


def picture() -> bytes:
    """Return a whole PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0\0")
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def rescued(out: Path, identity: bytes, request: GenerationRequest) -> tuple[list[KeptImage], bool]:
    """Return what a folder's only item gets of its files."""
    files = [str(path) for path in out.glob("images/*/*")]
    return rescue(Item(identity, 0, RequestRow(request)), files)


@pytest.mark.parametrize(
    ("numbers", "n", "complete"),
    [
        ([], None, False),
        ([None], None, True),
        ([1, 2, 3], 3, True),
        ([1, 2], None, True),
        ([2, 3], 3, False),
        ([1, 3], 3, False),
        ([2, 3], 2, True),
    ],
)
def test_the_first_image_vouches_for_the_others(
    tmp_path: Path, numbers: list[int | None], n: int | None, complete: bool
) -> None:
    """An item is adopted if the first is there and none is missing, or all that were asked are."""
    request = GenerationRequest("a", n=n)
    identity = left_behind(tmp_path, request, numbers)
    found, whole = rescued(tmp_path, identity, request)

    assert len(found) == len(numbers)
    assert whole is complete


def test_a_whole_hidden_file_is_kept_and_a_torn_one_is_not(tmp_path: Path) -> None:
    """It gets a name that vouches for nothing, since others may have been lost."""
    request = GenerationRequest("a")
    identity = left_behind(tmp_path, request, [])
    home = tmp_path / "images" / "00"
    digest = identity.hex()[:12]
    (home / f".{digest}-{'0' * 16}.part").write_bytes(picture())
    (home / f".{digest}-{'1' * 16}.part").write_bytes(picture()[:-5])
    found, whole = rescued(tmp_path, identity, request)

    assert [each.file_name for each in found] == [f"images/00/a-{digest}-2.png"]
    assert not whole
    assert [path.name for path in home.iterdir()] == [f"a-{digest}-2.png"]


def test_files_whose_end_cannot_be_told_are_kept_and_vouch_for_nothing(tmp_path: Path) -> None:
    """A drawing that has its name was whole; hidden, it may be half of one, and is paid for."""
    request = GenerationRequest("a", n=1)
    identity = left_behind(tmp_path, request, [])
    home, digest = tmp_path / "images" / "00", identity.hex()[:12]
    (home / f".{digest}-{'0' * 16}.part").write_bytes(b"<svg>")
    (home / f"a-{digest}-1.cut.png").write_bytes(picture()[:-5])
    found, whole = rescued(tmp_path, identity, request)

    names = [f"a-{digest}-1.cut.png", f"a-{digest}-2.cut.svg"]
    assert [Path(each.file_name).name for each in found] == names
    assert sorted(path.name for path in home.iterdir()) == names
    assert not whole
    (home / f"a-{digest}.svg").write_bytes(b"<svg/>")
    found, whole = rescued(tmp_path, identity, request)
    assert (len(found), whole) == (3, True)


def test_a_prompt_that_holds_an_items_digits_lends_it_no_image(tmp_path: Path) -> None:
    """Whose a file is, the digits at its name's end tell alone."""
    request = GenerationRequest("a")
    identity = left_behind(tmp_path, request, [])
    other = tmp_path / "images" / "00" / f"{identity.hex()[:12]}-{'f' * 12}.png"
    other.write_bytes(picture())

    assert rescued(tmp_path, identity, request) == ([], False)
    assert other.exists()


async def test_a_cut_items_images_are_found_in_whatever_folder_they_lie(tmp_path: Path) -> None:
    """A row that has moved in its input, or left it, costs no image that is here."""
    out = tmp_path / "out"
    request = GenerationRequest("a", model="imagen4", response_format="b64_json")
    async with Emulator(draw="tiny") as emulator:
        core = core_on(emulator)
        emulator.fail_next("drop")
        await run_all(core, [request], out)
        left_behind(out, request, [None], home="7f")
        execute(out, "UPDATE item SET state = 'sending'")
        _, report = await run_all(core, [request], out)
        await core.aclose()

    assert (report.done, report.images) == (1, 1)
    assert view(out, "metadata")[0]["file_name"].startswith("images/7f/a-")
    emulator.assert_charged_once()


def test_neighbours_share_a_folder(tmp_path: Path) -> None:
    """Where a row stands names the folder of its images, one of 256."""
    row = RequestRow(GenerationRequest("a"))
    homes = [
        Path(ItemFiles(tmp_path, Item(bytes(16), position, row)).home).name
        for position in (0, 1023, 1024, 256 * 1024)
    ]
    assert homes == ["00", "00", "01", "00"]


async def test_images_without_a_row_prove_a_lost_journal(tmp_path: Path) -> None:
    """A journal that is older than its images is refused: it would buy them again."""
    out = tmp_path / "out"
    async with Emulator(draw="tiny") as emulator:
        core = core_on(emulator)
        await run_all(core, REQUESTS[:1], out)
        left_behind(out, GenerationRequest("b"), [None])
        with pytest.raises(ConfigurationError, match="belongs to no item"):
            await run_all(core, REQUESTS[:1], out)
        await core.aclose()


async def test_images_of_an_earlier_purchase_stay_listed(tmp_path: Path) -> None:
    """After a resend the images that the crash left are still among those that are here."""
    out = tmp_path / "out"
    request = GenerationRequest("a", model="imagen4", response_format="b64_json", n=3)
    async with Emulator(draw="tiny") as emulator:
        core = core_on(emulator)
        emulator.fail_next("drop")
        await run_all(core, [request], out)
        left_behind(out, request, [5])
        execute(out, "UPDATE item SET state = 'sending'")
        _, report = await run_all(core, [request], out)
        assert (report.unknown, report.charged_yes, report.images) == (1, 1, 1)
        assert len(view(out, "unknown")[0]["files"]) == 1
        (outcome,), report = await run_all(core, [request], out, on_unknown="resend")
        await core.aclose()

    assert outcome.ok
    assert (report.done, report.images, len(view(out, "metadata"))) == (1, 4, 4)


async def test_a_cancellation_at_any_step_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled as each step of disk or journal begins: what is here is done, the rest in doubt."""
    requests = [REQUESTS[0], REQUESTS[1]]
    loop = asyncio.get_running_loop()
    async with Emulator(draw="tiny") as emulator:
        core = core_on(emulator)
        for cancelled in range(1, 40):
            out, steps = tmp_path / str(cancelled), 0
            emulator.reset()
            task = asyncio.create_task(run_all(core, requests, out))

            def step(
                *args: Any, real: Any, out: Path = out, turn: int = cancelled, task: Any = task
            ) -> Any:
                nonlocal steps
                steps += (out / "run.json").exists()
                if steps == turn:
                    loop.call_soon_threadsafe(task.cancel)
                return real(*args)

            with monkeypatch.context() as patch:
                for name in ("open_part", "sync", "sync_folder"):
                    patch.setattr(disk, name, partial(step, real=getattr(disk, name)))
                patch.setattr(journal_module, "_run", partial(step, real=journal_module._run))
                await asyncio.wait([task])
            if not task.cancelled() and task.exception() is None:
                break
            _, report = await run_all(core, requests, out)
            assert report.done + report.unknown == 2
            emulator.assert_charged_once()
            assert_sound(out)
            assert report.done == len({row["prompt"] for row in view(out, "metadata")})
        await core.aclose()
    assert cancelled > 10


async def test_real_kills_lose_nothing(tmp_path: Path) -> None:
    """Five times kill -9 in mid-run: at most eight in doubt each, none lost, none bought twice."""
    out, count, kills = tmp_path / "out", 240, 5
    async with Emulator(draw="tiny", latency=0.02) as emulator:
        for kill in range(kills + 1):
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", CHILD, emulator.base_url, str(out), str(count)),
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                stdout=subprocess.PIPE,
            )
            assert child.stdout is not None
            for _ in range(20 if kill < kills else count + 1):
                if not await child.stdout.readline():
                    break
            if kill < kills:
                child.send_signal(signal.SIGKILL)
            code = await child.wait()
            assert code == (-signal.SIGKILL if kill < kills else 0)
        report = json.loads((out / "report.json").read_text())

    assert report["done"] + report["unknown"] == count
    assert report["unknown"] <= 8 * kills
    emulator.assert_charged_once()
    assert_sound(out)
    lost = {row["prompt"] for row in view(out, "unknown")}
    assert len(lost) == report["unknown"]
