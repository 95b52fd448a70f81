"""What is done to a batch's files between and during its runs, and what it makes a resume buy.

A process is killed in mid-run, something happens to its folder, and the gateway's ledger tells
what the next run bought again.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from imagen_async import RetryPolicy
from imagen_async.batch.identity import body_digest
from imagen_async.batch.journal import SqliteJournal
from imagen_async.batch.records import KeptError, RefusedRow
from imagen_async.batch.run import Run, RunOptions
from imagen_async.batch.schema import LOG, NAME
from imagen_async.emulator import Emulator
from imagen_async.errors import ConfigurationError
from imagen_async.wire.request import GenerationRequest
from tests.batch.runs import CHILD, core_on, images, run_all, view
from tests.chaos.server import PNG
from tests.scripted import answering, failed, scripted

COUNT, CONCURRENCY = 60, 8
REQUESTS = [
    GenerationRequest(f"p{number}", response_format="url" if number % 3 else "b64_json")
    for number in range(COUNT)
]


@attrs.frozen
class Killed:
    """A run that was killed twice in mid-run.

    Args:
        emulator: The gateway, which goes on.
        folder: As the second kill left it.
        paid: What was charged until then.
        older: Its journal as it was after the first run, in order.
    """

    emulator: Emulator
    folder: Path
    paid: frozenset[str]
    older: Path


def run_and_kill(base_url: str, out: Path, outcomes: int) -> None:
    """Run the batch in a process of its own, which is killed after so many outcomes."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, base_url, str(out), str(COUNT)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        for _ in range(outcomes):
            assert child.stdout.readline()
        child.send_signal(signal.SIGKILL)


@pytest.fixture(scope="module", params=["with images", "without images"])
def killed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Killed]:
    """Return a folder with items done, unknown, behind dead links, failed and under way.

    In the other one no answer came, so that no image tells of what was paid for.
    """
    out = tmp_path_factory.mktemp("killed") / "out"
    with Emulator(draw="tiny", latency=0.03) as emulator:
        if request.param == "without images":
            emulator.fail("drop")
        for fault, prompt in (("drop", "p4"), ("file_expired", "p7"), ("status:400", "p9")):
            emulator.fail_next(fault, prompt=prompt)
        emulator.fail_next("drop", prompt="p30")
        run_and_kill(emulator.base_url, out, 14)
        with sqlite3.connect(out / NAME) as connection:  # folds the log into the file
            assert connection.execute("SELECT count(*) FROM item").fetchone()[0] > 14
            connection.execute("UPDATE closed SET whole = 1")
        connection.close()
        older = shutil.copy(out / NAME, out.with_name("older"))
        run_and_kill(emulator.base_url, out, 14)
        time.sleep(0.2)  # for what was under way to be charged
        emulator.gateway.plan.clear()
        paid = {prompt for prompt, count in charges(emulator).items() if count}
        yield Killed(emulator, out, frozenset(paid), older)


def charges(emulator: Emulator) -> dict[str, int]:
    """Return how often each prompt was charged."""
    return {prompt: account.charged for prompt, account in emulator.ledger.items()}


def cut(name: str, share: float) -> Callable[[Path, Killed], object]:
    def attack(out: Path, _: Killed) -> None:
        os.truncate(out / name, int((out / name).stat().st_size * share))

    return attack


def write(name: str, place: int, data: bytes) -> Callable[[Path, Killed], object]:
    def attack(out: Path, _: Killed) -> None:
        with (out / name).open("r+b") as file:
            file.seek(place)
            file.write(data)

    return attack


def fill(name: str, data: Callable[[int], bytes]) -> Callable[[Path, Killed], object]:
    return lambda out, _: (out / name).write_bytes(data((out / name).stat().st_size))


def flip(name: str, share: float) -> Callable[[Path, Killed], object]:
    def attack(out: Path, _: Killed) -> None:
        data = bytearray((out / name).read_bytes())
        data[int(len(data) * share)] ^= 0x10
        (out / name).write_bytes(data)

    return attack


def flip_an_id(out: Path, _: Killed) -> None:
    """Change one bit of an id in the table and not in its index."""
    data = bytearray((out / NAME).read_bytes())
    with sqlite3.connect(f"file:{out / NAME}?immutable=1", uri=True) as connection:
        (identity,) = connection.execute("SELECT id FROM item").fetchone()
    connection.close()
    data[data.index(identity)] ^= 0x10
    (out / NAME).write_bytes(data)


def older(out: Path, killed: Killed, *, log: bool) -> None:
    shutil.copy(killed.older, out / NAME)
    if not log:
        (out / LOG).unlink()


def version(out: Path, _: Killed) -> None:
    write(NAME, 60, (99).to_bytes(4, "big"))(out, _)
    (out / LOG).unlink()


def instead(out: Path, name: str, put: Callable[[Path], object]) -> None:
    """Put something in the place of a folder."""
    (out / "images" / "00").mkdir(parents=True, exist_ok=True)
    place = out / "images" / "00" if name == "one of images" else out / name
    place.rename(out.with_name("taken"))
    put(place)


def swapped(out: Path, _: Killed) -> None:
    """Move everything out of the folder and back in another order, with copies in between."""
    shutil.copytree(out, out.with_name("copy"))
    shutil.rmtree(out)
    out.with_name("copy").rename(out)


Attack = Callable[[Path, Killed], object]
HARMLESS: dict[str, Attack] = {
    "nothing": lambda *_: None,
    "the folder copied, removed and moved back": swapped,
    "-shm of noise": lambda out, _: (out / f"{NAME}-shm").write_bytes(random.randbytes(32768)),
    "-shm a folder": lambda out, _: (out / f"{NAME}-shm").mkdir(),
    "the lists removed": lambda out, _: [path.unlink() for path in out.glob("*.jsonl")],
}
SEEN: dict[str, Attack] = {
    "journal removed": lambda out, _: (out / NAME).unlink(),
    "journal and log removed": lambda out, _: [path.unlink() for path in out.glob(f"{NAME}*")],
    "journal emptied": cut(NAME, 0),
    "journal and log emptied": lambda out, killed: (
        (cut(NAME, 0), cut(LOG, 0)) and [os.truncate(path, 0) for path in (out / NAME, out / LOG)]
    ),
    "journal a link": lambda out, _: (
        (out / NAME).rename(out / "other"),
        (out / NAME).symlink_to("other"),
    ),
    "journal of a newer version": version,
    "journal older, its log gone": lambda out, killed: older(out, killed, log=False),
    "log removed": lambda out, _: (out / LOG).unlink(),
    "log emptied": cut(LOG, 0),
    "log cut to its header": lambda out, _: os.truncate(out / LOG, 32),
    "log cut in its first frame": lambda out, _: os.truncate(out / LOG, 1000),
    "log zeroed": fill(LOG, bytes),
    "log's header zeroed": write(LOG, 0, bytes(32)),
    "log of noise": fill(LOG, random.randbytes),
    "log's first frame changed": write(LOG, 40, b"\1\2\3\4"),
    "images a file": lambda out, _: instead(out, "images", Path.touch),
    "images a link": lambda out, _: instead(
        out, "images", lambda place: place.symlink_to(out.with_name("taken"))
    ),
    "one of images a file": lambda out, _: instead(out, "one of images", Path.touch),
    "one of images a link": lambda out, _: instead(
        out, "one of images", lambda place: place.symlink_to(out.with_name("taken"))
    ),
    "run.json removed": lambda out, _: (out / "run.json").unlink(),
    "run.json emptied": cut("run.json", 0),
    "run.json of another gateway": lambda out, _: (out / "run.json").write_text(
        '{"version": 2, "base_url": "http://elsewhere/v1", "options": {}}'
    ),
}
UNSEEN: dict[str, Attack] = {
    "log cut in the middle": cut(LOG, 0.5),
    "a bit of the log changed": flip(LOG, 0.5),
}
FOLDED: dict[str, Attack] = {
    "an id's bit changed": flip_an_id,
    "journal's header zeroed": write(NAME, 0, bytes(100)),
    "a page zeroed": write(NAME, 4096, bytes(4096)),
    "the last page zeroed": lambda out, _: write(
        NAME, (out / NAME).stat().st_size - 4096, bytes(4096)
    )(out, _),
    "journal cut by a page": lambda out, _: os.truncate(
        out / NAME, (out / NAME).stat().st_size - 4096
    ),
}


async def resumed(emulator: Emulator, out: Path, paid: frozenset[str]) -> tuple[set[str], Any]:
    """Go on with a folder; return which of the paid prompts it bought, and the report or error."""
    before = charges(emulator)
    core = core_on(emulator, concurrency=CONCURRENCY)
    try:
        _, told = await run_all(core, REQUESTS, out)
    except ConfigurationError as error:
        told = error
    finally:
        await core.aclose()
    after = charges(emulator)
    return {prompt for prompt in paid if after[prompt] > before[prompt]}, told


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """A gateway of its own, which answers soon."""
    with Emulator(draw="tiny", latency=0.03) as started:
        yield started


@pytest.fixture
def copy(killed: Killed, tmp_path: Path) -> Path:
    """Return a copy of the killed run's folder."""
    return shutil.copytree(killed.folder, tmp_path / "out")


@pytest.mark.parametrize("name", HARMLESS)
async def test_what_loses_nothing_stops_nothing(killed: Killed, copy: Path, name: str) -> None:
    """The run goes on to its end, what was paid for is not bought again, doubts are listed."""
    HARMLESS[name](copy, killed)
    again, report = await resumed(killed.emulator, copy, killed.paid)
    assert again == set()
    assert report.total == COUNT == report.done + report.unknown + report.failed
    assert report.unknown <= len(killed.paid) + 2 * CONCURRENCY


@pytest.mark.parametrize("name", SEEN)
async def test_what_loses_commits_is_refused(killed: Killed, copy: Path, name: str) -> None:
    """Nothing is sent, and the one line says what to do."""
    SEEN[name](copy, killed)
    posts = killed.emulator.ledger.total.posts
    again, error = await resumed(killed.emulator, copy, killed.paid)
    assert (again, killed.emulator.ledger.total.posts) == (set(), posts)
    assert isinstance(error, ConfigurationError)
    assert "\n" not in str(error)


@pytest.mark.parametrize("name", FOLDED)
async def test_damage_to_a_journal_in_order_is_seen(killed: Killed, copy: Path, name: str) -> None:
    """After an orderly end a quick look suffices to see it, or what was damaged held nothing."""
    core = core_on(killed.emulator)
    await run_all(core, [], copy)
    await core.aclose()
    FOLDED[name](copy, killed)
    again, told = await resumed(killed.emulator, copy, killed.paid)
    assert again == set()
    assert isinstance(told, ConfigurationError) or "page" in name


LOSSES: dict[str, Callable[[Path], object]] = {
    "removed": Path.unlink,
    "emptied": lambda log: os.truncate(log, 0),
    "cut to its header": lambda log: os.truncate(log, 32),
    "zeroed": lambda log: log.write_bytes(bytes(log.stat().st_size)),
    "its first frame gone": lambda log: log.write_bytes(
        log.read_bytes()[:32] + bytes(24) + log.read_bytes()[56:]
    ),
}


@pytest.mark.parametrize("loss", LOSSES)
async def test_a_log_that_was_folded_in_on_the_way_is_missed_too(tmp_path: Path, loss: str) -> None:
    """What came after that is in the log alone; the file knows that it was not closed."""
    out, copies = tmp_path / "out", tmp_path / "copies"
    out.mkdir()
    journal = SqliteJournal(out)
    await journal.open()
    await journal.call(lambda view: view.count_run())
    await journal.call(
        lambda view: view.connection.execute("PRAGMA wal_checkpoint(FULL)").fetchall()
    )
    await journal.refused(
        RefusedRow(line=1, id="x" * 5000, request=None, error=KeptError(type="InvalidRequestError"))
    )
    shutil.copytree(out, copies)
    await journal.aclose()

    LOSSES[loss](copies / LOG)
    journal = SqliteJournal(copies)
    with pytest.raises(ConfigurationError, match="lost the last commits"):
        await journal.open()


async def test_every_row_is_looked_up_after_a_disorderly_end(tmp_path: Path) -> None:
    """Two entries of the index that stand in each other's place pass for whole otherwise."""
    async with Emulator(draw="tiny") as emulator:
        core = core_on(emulator)
        await run_all(core, REQUESTS[:40], tmp_path)
        await core.aclose()
    with sqlite3.connect(tmp_path / NAME) as connection:
        ids = [row[0] for row in connection.execute("SELECT id FROM item ORDER BY id")]
    connection.close()
    data = bytearray((tmp_path / NAME).read_bytes())
    pages = (slice(start, start + 4096) for start in range(0, len(data), 4096))
    index = next(page for page in pages if all(each in data[page] for each in ids))
    first, last = (data.index(each, index.start) for each in (ids[0], ids[-1]))
    data[first : first + 16], data[last : last + 16] = ids[-1], ids[0]
    (tmp_path / NAME).write_bytes(data)
    (tmp_path / LOG).write_bytes(b"left by a kill")
    journal = SqliteJournal(tmp_path)
    with pytest.raises(ConfigurationError, match="damaged"):
        await journal.open()


@pytest.mark.parametrize("name", UNSEEN)
async def test_a_cut_within_the_log_costs_at_most_what_has_no_image(
    killed: Killed, copy: Path, name: str
) -> None:
    """It looks like an earlier moment: refused if an image has no row, else in doubt is unknown."""
    here = {path.name.rsplit("-", 1)[0] for path in images(copy)}
    UNSEEN[name](copy, killed)
    again, told = await resumed(killed.emulator, copy, killed.paid)
    if not isinstance(told, ConfigurationError):
        assert len(again) <= 14 + CONCURRENCY  # what the second run sent
    assert not again & here


async def test_an_older_journal_under_the_log_buys_nothing(killed: Killed, copy: Path) -> None:
    """The log of a later run over it: whole again by it, or refused."""
    older(copy, killed, log=True)
    again, _ = await resumed(killed.emulator, copy, killed.paid)
    assert again == set()


async def test_a_log_that_comes_back_is_taken(killed: Killed, copy: Path) -> None:
    """A refusal spoils nothing: with the log back in its place the run goes on."""
    away = copy.with_name("away")
    (copy / LOG).rename(away)
    assert isinstance((await resumed(killed.emulator, copy, killed.paid))[1], ConfigurationError)
    away.rename(copy / LOG)
    again, report = await resumed(killed.emulator, copy, killed.paid)
    assert again == set()
    assert report.done + report.unknown + report.failed == COUNT


async def test_a_log_that_was_being_begun_again_is_whole(killed: Killed, copy: Path) -> None:
    """A kill between a new header and its first frame loses nothing, and is not refused."""
    with sqlite3.connect(copy / NAME) as connection:
        log = (copy / LOG).read_bytes()
        connection.execute("PRAGMA wal_checkpoint(FULL)").fetchall()
        whole = (copy / NAME).read_bytes()
    connection.close()
    (copy / NAME).write_bytes(whole)
    salt = (int.from_bytes(log[16:20], "big") + 1) % 2**32
    (copy / LOG).write_bytes(log[:16] + salt.to_bytes(4, "big") + os.urandom(12) + log[32:])
    again, report = await resumed(killed.emulator, copy, killed.paid)
    assert again == set()
    assert report.done + report.unknown + report.failed == COUNT


def replaced(out: Path) -> None:
    """Put the journal as it was before its log in the place of the one in use."""
    shutil.copy(out / NAME, out / "older")
    (out / "older").replace(out / NAME)


def away_and_back(out: Path) -> None:
    """Move the folder away for a moment in which something is committed."""
    out.rename(out.with_name("away"))
    time.sleep(0.1)
    while out.with_name("away").exists():  # images under way make the folder anew
        shutil.rmtree(out, ignore_errors=True)
        with contextlib.suppress(OSError):
            out.with_name("away").rename(out)


DURING: dict[str, Callable[[Path], object]] = {
    "journal removed": lambda out: (out / NAME).unlink(),
    "log removed": lambda out: (out / LOG).unlink(),
    "journal renamed": lambda out: (out / NAME).rename(out / "other"),
    "journal replaced by an older one": replaced,
    "folder removed": lambda out: shutil.rmtree(out, ignore_errors=True),
    "folder renamed": lambda out: out.rename(out.with_name("away")),
    "folder away and back": away_and_back,
}


@pytest.mark.parametrize("fault", [None, "drop"])
@pytest.mark.parametrize("name", DURING)
async def test_a_journal_that_is_taken_away_stops_the_run(
    emulator: Emulator, tmp_path: Path, name: str, fault: str | None
) -> None:
    """What was under way is finished, nothing more is sent, and no resume buys it again."""
    out = tmp_path / "out"
    if fault is not None:
        emulator.fail(fault)
    core = core_on(emulator, concurrency=CONCURRENCY)
    run, begun, posts = Run(core, REQUESTS, out, RunOptions(gallery=False)), 0, 0
    async with run:
        async for _ in run:
            begun += 1
            if begun == 10:
                worker = threading.Thread(target=DURING[name], args=(out,))
                worker.start()
                if name != "folder away and back":
                    worker.join()
                posts = emulator.ledger.total.posts
    worker.join()
    await core.aclose()
    emulator.gateway.plan.clear()
    report = run.report
    # An image that was being written may miss its folder before a commit misses the journal.
    stops = {"journal"} if "folder" not in name else {"journal", "disk"}
    assert report.stopped_by in stops
    assert report.stopped_by != "journal" or "put it back" in (report.problem or "")
    assert emulator.ledger.total.posts <= posts + 2 * CONCURRENCY < COUNT

    paid = frozenset(prompt for prompt, count in charges(emulator).items() if count)
    away = out.with_name("away")
    for folder in (out, away) if away.exists() else (out,):
        if list(folder.glob("*")):  # an empty one is for a batch of its own
            again, _ = await resumed(emulator, folder, paid)
            assert again == set(), folder.name
    if away.exists():
        assert view(away, "metadata") or fault is not None


async def test_a_removed_log_is_folded_in_at_the_end(emulator: Emulator, tmp_path: Path) -> None:
    """The file itself is in its place, so that what was committed is whole after the stop."""
    out = tmp_path / "out"
    core = core_on(emulator, concurrency=CONCURRENCY)
    run, begun = Run(core, REQUESTS, out, RunOptions(gallery=False)), 0
    async with run:
        async for _ in run:
            begun += 1
            if begun == 10:
                (out / LOG).unlink()
    _, report = await run_all(core, REQUESTS, out)
    await core.aclose()
    assert run.report.stopped_by == "journal"
    assert report.skipped >= 10
    assert report.done + report.unknown == COUNT


async def test_an_image_of_what_was_free_is_seen(tmp_path: Path) -> None:
    """The journal is from before it was paid for, as one from a backup is: nothing is sent."""
    handler = answering(*[failed()] * 4)
    async with scripted(handler, retry=RetryPolicy(backoff_base=0.001)) as (gateway, imagen):
        async with imagen.batch(["p"], out=tmp_path, gallery=False) as run:
            assert [outcome.ok async for outcome in run] == [False]
        digest = body_digest(GenerationRequest("p")).hex()
        image = tmp_path / "images" / digest[:2] / f"p-{digest[:12]}.png"
        image.parent.mkdir(parents=True)
        image.write_bytes(PNG)
        sent = len(gateway.posts)
        with pytest.raises(ConfigurationError, match="older than its images"):
            async with imagen.batch(["p"], out=tmp_path, gallery=False, retry_failed=True):
                pass
        assert len(gateway.posts) == sent
