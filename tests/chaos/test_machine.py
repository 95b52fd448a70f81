"""Rows F5 to F9: the machine fails a client whose answers are paid for and on their way."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.chaos.server import Exchange, serving
from tests.chaos.starved import CALLS, picture

ROOT = Path(__file__).parents[2]
FLOWS = (
    "generate:b64",
    "generate_to:b64",
    "generate_to:url",
    "save:b64",
    "batch:b64",
    "batch:url",
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")


@attrs.frozen
class Result:
    """What became of one flow.

    Args:
        paid: Images that the server charged.
        kept: Those that are in a file with a name, or in the caller's hands with their bytes.
        linked: Those of the others whose link is in the caller's hands.
        twice: Prompts that were bought more than once.
        told: What the client says of itself.
    """

    paid: int
    kept: int
    linked: int
    twice: int
    told: dict[str, Any]

    @property
    def lost(self) -> int:
        return self.paid - self.kept - self.linked


async def starve(folder: Path, trouble: str, flow: str) -> Result:
    """Run one flow under one trouble, in a process of its own."""
    arrived, answers = asyncio.Event(), asyncio.Event()

    async def order(exchange: Exchange) -> None:
        exchange.server.ledger.charges[exchange.prompt] += 1
        if len(exchange.server.ledger.charges) == CALLS:
            arrived.set()
        await answers.wait()
        item = {"b64_json": base64.b64encode(picture(exchange.prompt)).decode()}
        if flow.endswith("url"):
            path = exchange.prompt.replace(" ", "/")
            item = {"url": f"{exchange.server.base_url}/{path}"}
        await exchange.answer(json.dumps({"created": 1, "data": [item]}).encode())

    async def file(exchange: Exchange) -> None:
        flow, number = exchange.server.ledger.heads[-1].split(" ")[1].split("/")[-2:]
        await exchange.answer(picture(f"{flow} {number}"))

    async with serving(default=order) as server:
        server.gets = file
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-m", "tests.chaos.starved"),
            *(server.base_url, str(folder), trouble, flow),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            async with asyncio.timeout(60):
                await arrived.wait()
                child.stdin.write(b"arm\n")
                assert await child.stdout.readline() == b"armed\n"
                answers.set()
                told = json.loads(await child.stdout.read())
                assert await child.wait() == 0
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        charges = Counter(server.ledger.charges)
    return result(folder, charges, told)


def result(folder: Path, charges: Counter[str], told: dict[str, Any]) -> Result:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name[0] != "."]
    here = {zlib.crc32(path.read_bytes()) for path in files} | set(told["hands"])
    missing = {prompt for prompt in charges if zlib.crc32(picture(prompt)) not in here}
    links = {"/".join(link.split("/")[-2:]).replace("/", " ") for link in told["links"]}
    linked = len(missing & links)
    twice = sum(1 for count in charges.values() if count > 1)
    return Result(len(charges), len(charges) - len(missing), linked, twice, told)


def assert_kept(found: Result) -> None:
    """No paid image is lost, none is bought twice, and every exception is ours."""
    assert found.told["foreign"] == []
    assert (found.paid, found.lost, found.twice) == (CALLS, 0, 0)


@pytest.mark.parametrize("flow", FLOWS)
async def test_no_free_descriptor(flow: str, tmp_path: Path) -> None:
    """F5: an image waits for a descriptor, in memory; if none comes its bytes are on the error."""
    found = await starve(tmp_path, "descriptors", flow)
    assert_kept(found)
    if not flow.startswith("generate:"):
        assert len(found.told["errors"]) == CALLS
        assert set(found.told["errors"]) <= {"SaveError yes", "DownloadError yes"}


@pytest.mark.parametrize("flow", ["generate_to:b64", "save:b64", "batch:b64"])
async def test_descriptors_that_come_free(flow: str, tmp_path: Path) -> None:
    """F5: a shortage that passes costs a moment and no image."""
    found = await starve(tmp_path, "descriptors:passes", flow)
    assert_kept(found)
    assert (found.kept, found.told["errors"], found.told["hands"]) == (CALLS, [], [])


@pytest.mark.parametrize("flow", FLOWS)
async def test_no_thread(flow: str, tmp_path: Path) -> None:
    """F6: what has no thread to be done in is done on the loop."""
    found = await starve(tmp_path, "threads", flow)
    assert_kept(found)
    if flow != "generate_to:url" and flow != "batch:url":  # the host's name takes a thread
        assert (found.kept, found.told["errors"]) == (CALLS, [])


@pytest.mark.parametrize("flow", FLOWS)
async def test_no_room(flow: str, tmp_path: Path) -> None:
    """F7: on a full disk every image's bytes are on its error, and a batch stops."""
    found = await starve(tmp_path, "room", flow)
    assert_kept(found)
    assert found.kept == CALLS
    if flow.startswith("batch"):
        assert found.told["stopped"] == "disk"
    assert not list(tmp_path.rglob("*.part"))


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system that has room for a journal and nearly nothing else."""
    home = tmp_path / "small"
    home.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(home)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        yield home
    finally:
        subprocess.run(["umount", str(home)], check=True)


@pytest.mark.parametrize("flow", ["generate_to:b64", "generate_to:url", "save:b64", "batch:b64"])
async def test_a_disk_that_is_full(flow: str, full_disk: Path) -> None:
    """F7: a file system of 400 KiB for more than a megabyte: what has no room is in hand."""
    found = await starve(full_disk, "none", flow)
    assert_kept(found)
    assert found.kept == CALLS
    assert "SaveError yes" in found.told["errors"]


@pytest.mark.parametrize("flow", FLOWS)
async def test_no_import(flow: str, tmp_path: Path) -> None:
    """F8: whatever an answer needs is imported before the first request is sent."""
    found = await starve(tmp_path, "imports", flow)
    assert_kept(found)
    assert (found.kept, found.told["errors"]) == (CALLS, [])


@pytest.mark.parametrize("flow", ["generate_to:b64", "generate_to:url", "save:b64", "batch:b64"])
async def test_no_memory_on_the_way_to_the_disk(flow: str, tmp_path: Path) -> None:
    """F9: a step that has no memory left ends as our error, with the bytes."""
    found = await starve(tmp_path, "memory", flow)
    assert_kept(found)
    assert found.kept == CALLS
    assert set(found.told["errors"]) == {"SaveError yes"}
