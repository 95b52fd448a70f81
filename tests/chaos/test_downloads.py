"""Rows D and F: links, files and disks that fail after an image was paid for."""

import asyncio
import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from imagen_async import AsyncImagen, DownloadError, ExpiredUrlError, GenerationRequest, Timeouts
from imagen_async.emulator import Emulator
from imagen_async.storage import disk
from tests.chaos.faults import document
from tests.chaos.harness import client, leakless
from tests.chaos.server import PNG, Exchange, serving

ROOT = Path(__file__).parents[2]
STALL = Timeouts(total=20, stall=0.03)


def on(emulator: Emulator, **options: Any) -> AsyncImagen:
    return client(emulator.base_url, **({"timeouts": STALL} | options))


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("file_503_first:2", None),
        ("file_redirect", None),
        ("file_404_first:1", None),
        ("file_expired", ExpiredUrlError),
        ("file_truncated", DownloadError),
        ("file_drop", DownloadError),
        ("file_stall", DownloadError),
        ("file_html", DownloadError),
        ("not_an_image", DownloadError),
        ("url_path", DownloadError),
    ],
)
async def test_a_link_that_fails_never_costs_a_second_image(
    fault: str, error: type[DownloadError] | None, tmp_path: Path
) -> None:
    """D1: what may pass is fetched again, the rest is told; nothing is written short, or bought."""
    async with Emulator(draw="tiny") as emulator, leakless():
        emulator.fail_next(fault)
        async with on(emulator) as imagen:
            if error is None:
                generation = await imagen.generate_to(tmp_path, "a cat", response_format="url")
                assert generation.images[0].path == tmp_path / listed(tmp_path)[0]
            else:
                with pytest.raises(error) as caught:
                    await imagen.generate_to(tmp_path, "a cat", response_format="url")
                assert str(caught.value.charge) == "yes"
                assert caught.value.images[0].url is not None
                assert caught.value.idempotency_key
                assert listed(tmp_path) == []
        account = emulator.ledger["a cat"]
        assert (account.posts, account.charged) == (1, 1)


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize("framing", ["cut", "cut_chunked", "cut_silent"])
async def test_the_links_of_an_answer_that_is_cut_are_fetched(
    framing: str, keep: int, tmp_path: Path
) -> None:
    """H11: every link that arrived whole becomes a file, and what was lost is noted."""
    async with Emulator(draw="tiny") as emulator, on(emulator) as imagen:
        whole = await imagen.generate("a cat", response_format="url", n=4)
        text = json.dumps(
            {"created": 1, "data": [{"url": image.url} for image in whole.images[:keep]]}
        )
        emulator.fail_next(f"{framing}:{len(text) + 30}")
        generation = await imagen.generate_to(tmp_path, "a dog", response_format="url", n=4)
        assert emulator.ledger["a dog"].charged == 1
    assert 1 <= len(generation.images) <= keep
    assert len(listed(tmp_path)) == len(generation.images)
    assert generation.problems[0].startswith("the answer was not whole: ")
    assert all(image.path for image in generation.images)


async def test_a_batch_keeps_the_links_of_an_answer_that_is_cut(tmp_path: Path) -> None:
    """H11: the item is done with what came, and a resume orders nothing."""
    async with Emulator(draw="tiny") as emulator, on(emulator) as imagen:
        url = (await imagen.generate("a dog", response_format="url")).images[0].url
        assert url is not None
        emulator.fail_next(f"cut:{2 * len(url) + 60}")
        request = GenerationRequest("a cat", response_format="url", n=4)
        reports = []
        for _ in range(2):
            async with imagen.batch([request], out=tmp_path / "out", gallery=False) as run:
                reports.append([outcome async for outcome in run])
        assert emulator.ledger["a cat"].posts == 1
    (outcome,), nothing = reports
    assert nothing == []
    assert 1 <= len(outcome.generation.images) <= 2
    assert outcome.generation.problems[0].startswith("the answer was not whole: ")
    assert (run.report.done, run.report.images) == (1, len(outcome.generation.images))


CAT = GenerationRequest("a cat", response_format="url")
HOSTS = ["127.0.0.1", "127.0.0.2", "0.0.0.0", "[::ffff:127.0.0.1]", "0x7f000001", "localhost"]


@pytest.mark.parametrize("allowed", [False, True])
async def test_a_gateways_link_into_our_own_network_is_not_followed(
    allowed: bool, tmp_path: Path
) -> None:
    """D2: an answer whose link leads to this machine reaches nobody; its twin shows it could."""
    seen: list[bytes] = []

    async def canary(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(PNG)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + PNG)
        writer.close()

    async def answer(exchange: Exchange) -> None:
        await document(data=[{"url": f"http://{exchange.prompt}:{port}/x?sig=secret"}])(exchange)

    listener = await asyncio.start_server(canary, "0.0.0.0")
    port = listener.sockets[0].getsockname()[1]
    async with (
        listener,
        serving(default=answer) as server,
        client(server.base_url, allow_private=allowed) as imagen,
    ):
        for host in HOSTS[:1] if allowed else HOSTS:
            if allowed:
                assert (await imagen.generate_to(tmp_path, host)).images[0].path
                continue
            with pytest.raises(DownloadError) as caught:
                await imagen.generate_to(tmp_path, host)
            assert str(caught.value.charge) == "yes"
            assert "secret" not in str(caught.value)
            with pytest.raises(DownloadError):
                await imagen.read(caught.value.images[0])
    assert len(seen) == allowed


def is_picture(descriptor: int, folder: Path) -> bool:
    number = os.fstat(descriptor).st_ino
    return any(part.stat().st_ino == number for part in folder.glob("out/images/*/.*.part"))


async def test_a_sync_that_failed_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F2: pages that a failed fsync lost count as clean: the file goes, and is written anew."""
    synced: list[int] = []
    real = disk.sync

    def sync(descriptor: int) -> None:
        if is_picture(descriptor, tmp_path):
            synced.append(descriptor)
            if len(synced) == 1:
                raise OSError(errno.EIO, "lost")
        real(descriptor)

    monkeypatch.setattr(disk, "sync", sync)
    async with Emulator(draw="tiny") as emulator, on(emulator) as imagen:
        failed, again = [], []
        for outcomes in (failed, again):
            async with imagen.batch([CAT], out=tmp_path / "out", gallery=False) as run:
                outcomes += [outcome async for outcome in run]
        assert emulator.ledger["a cat"].posts == 1
    assert "EIO" in str(failed[0].error)
    assert len(synced) == 2
    assert again[0].generation.images[0].path.read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.rglob("*.part"))


WRITER = """
import asyncio, sys
from pathlib import Path
from imagen_async.storage.stores import FolderStore
from imagen_async.storage.save import write_file
from tests.chaos.server import PNG

async def main(folder):
    for _ in range(20):
        shelf = FolderStore(folder, "same", "0123456789ab")
        sink = shelf.open()
        sink.write(PNG)
        sink.close()
        print((await shelf.keep([sink], [None]))[0].image.path.name)
        print((await write_file(PNG, folder / "saved.png", overwrite=False)).name)

asyncio.run(main(Path(sys.argv[1])))
"""


async def test_two_processes_with_the_same_names_lose_nothing(tmp_path: Path) -> None:
    """F4: each file of either process has a name of its own and is whole."""
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", WRITER, tmp_path), cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(2)
    ]
    names = [
        name
        for process in processes
        for name in (await process.communicate())[0].decode().splitlines()
    ]
    assert len(names) == 80
    assert sorted(names) == listed(tmp_path)
    assert all((tmp_path / name).read_bytes() == PNG for name in names)
