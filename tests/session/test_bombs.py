"""Compressed answers that nobody asked for: small on the wire, hundreds of megabytes inside."""

from __future__ import annotations

import asyncio
import base64
import gzip
import importlib
import json
import sys
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from imagen_async import AsyncImagen, Charge, SpoiledAnswerError
from tests.storage.test_stores import PNG

CAP = 16 * 1024 * 1024
MEGABYTES = 300
MIB = 1024 * 1024
ROOT = Path(__file__).parents[2]
GOOD = json.dumps({"data": [{"b64_json": base64.b64encode(PNG).decode()}]}).encode()
STARTS = {
    "spaces": b" ",
    "zeros": b"\0",
    "a number": b'{"created":1',
    "an image": b'{"data":[{"b64_json":"A',
}


def pack_gzip(start: bytes, filler: bytes) -> Iterator[bytes]:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    yield packer.compress(start) + packer.compress(filler * MIB) + packer.flush(zlib.Z_FULL_FLUSH)
    # After a full flush a block stands for itself: the same bytes again are the same text again.
    raw = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = raw.compress(filler * MIB) + raw.flush(zlib.Z_FULL_FLUSH)
    for _ in range(MEGABYTES):
        yield block


def pack_deflate(start: bytes, filler: bytes) -> Iterator[bytes]:
    packer = zlib.compressobj(9)
    yield packer.compress(start)
    for _ in range(MEGABYTES):
        yield packer.compress(filler * MIB)
    yield packer.flush()


def pack_brotli(start: bytes, filler: bytes) -> Iterator[bytes]:
    packer = importlib.import_module("brotli").Compressor(quality=5)
    yield packer.process(start)
    for _ in range(MEGABYTES):
        yield packer.process(filler * MIB)
    yield packer.finish()


def pack_zstd(start: bytes, filler: bytes) -> Iterator[bytes]:
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    packer = importlib.import_module(name).ZstdCompressor()
    yield packer.compress(start)
    for _ in range(MEGABYTES):
        yield packer.compress(filler * MIB)
    yield packer.flush()


def pack_twice(start: bytes, filler: bytes) -> Iterator[bytes]:
    yield gzip.compress(b"".join(pack_gzip(start, filler)))


PACKERS: dict[str, Any] = {
    "gzip": pack_gzip,
    "deflate": pack_deflate,
    "br": pack_brotli,
    "zstd": pack_zstd,
    "gzip, gzip": pack_twice,
}
MODULES = {"br": ["brotli"], "zstd": ["compression.zstd", "backports.zstd"]}


def installed(encoding: str) -> bool:
    """Return whether aiohttp can undo an encoding here."""
    names = MODULES.get(encoding)
    return names is None or any(map(found, names))


def found(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


ENCODINGS = [encoding for encoding in PACKERS if installed(encoding)]


@attrs.frozen
class Bomb:
    """An answer with an encoding; on the way of a link if ``link`` is set."""

    body: bytes
    encoding: str
    link: bool = False
    status: int = 200

    def answer(self, method: str, origin: str) -> bytes:
        if self.link and method == "POST":
            return reply(json.dumps({"data": [{"url": f"{origin}/file"}]}).encode())
        return reply(self.body, self.status, f"Content-Encoding: {self.encoding}")


def reply(body: bytes, status: int = 200, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@asynccontextmanager
async def serving(bombs: dict[str, Bomb]) -> AsyncIterator[str]:
    """Run a server that answers each prompt with its bomb; give its base URL."""
    origin, latest = "", Bomb(GOOD, "identity")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal latest
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = head.lower().partition("content-length: ")[2].partition("\r\n")[0]
                if length:
                    prompt = json.loads(await reader.readexactly(int(length)))["prompt"]
                    latest = bombs.get(prompt, Bomb(GOOD, "identity"))
                writer.write(latest.answer(head.partition(" ")[0], origin))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield f"{origin}/v1"


async def opened(bombs: dict[str, Bomb]) -> list[dict[str, Any]]:
    """Open the bombs in a process of their own; return what it told of each."""
    async with serving(bombs) as base_url:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.session.bomb_client", base_url, str(CAP), *bombs),
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        output, _ = await process.communicate()
    assert process.returncode == 0
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.skipif(sys.platform == "win32", reason="the resource module is Unix's")
@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_a_bomb_costs_no_memory_and_little_time(encoding: str) -> None:
    """Whatever 300 MB unfold from, memory grows by less than twice the largest image."""
    bodies = {
        name: b"".join(PACKERS[encoding](start, start[-1:])) for name, start in STARTS.items()
    }
    assert max(map(len, bodies.values())) < MIB
    bombs = {name: Bomb(body, encoding) for name, body in bodies.items()}
    bombs["an error"] = Bomb(bodies["zeros"], encoding, status=400)
    bombs["a download"] = Bomb(bodies["zeros"], encoding, link=True)
    fine, *told = await opened(bombs)
    assert fine["error"] is None
    endings = [(each["prompt"], each["error"], each["charge"]) for each in told]
    assert endings == [
        ("spaces", "SpoiledAnswerError", "yes"),
        ("zeros", "SpoiledAnswerError", "yes"),
        ("a number", "SpoiledAnswerError", "yes"),
        ("an image", "SpoiledAnswerError", "yes"),
        ("an error", "RejectedError", "no"),
        ("a download", "DownloadError", "yes"),
    ], told
    assert sum(each["growth"] for each in told) < 2 * CAP, told


@pytest.mark.parametrize(
    ("encoding", "body", "problem"),
    [
        ("gzip", b"\x1f\x8b\x08\0" + b"junk" * 50, "cannot be undone"),
        ("gzip", GOOD, "cannot be undone"),
        ("gzip", gzip.compress(b"[" * 9000, mtime=0)[:-8] + b"\xff" * 8, "cannot be undone"),
        ("deflate", b"\xff" * 100, "cannot be undone"),
        ("gzip", gzip.compress(GOOD)[:-30], "not JSON"),
        ("gzip, gzip", gzip.compress(gzip.compress(GOOD)), "not UTF-8"),
        ("unheard-of", b"junk", "not JSON"),
    ],
)
async def test_a_broken_encoding_is_an_answer_that_was_paid_for(
    encoding: str, body: bytes, problem: str
) -> None:
    """What cannot be unpacked, or ends too early under a right length, is never sent again."""
    async with (
        serving({"a cat": Bomb(body, encoding)}) as base_url,
        AsyncImagen(base_url=base_url) as imagen,
    ):
        with pytest.raises(SpoiledAnswerError, match=problem) as caught:
            await imagen.generate("a cat")
    assert (caught.value.charge, caught.value.attempts) == (Charge.YES, 1)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_an_encoding_that_is_whole_is_undone(encoding: str) -> None:
    """A gateway that compresses though it was not asked to has earned its money all the same."""
    packed = gzip.compress(GOOD) if encoding == "gzip" else zlib.compress(GOOD)
    async with (
        serving({"a cat": Bomb(packed, encoding)}) as base_url,
        AsyncImagen(base_url=base_url) as imagen,
    ):
        assert (await imagen.generate("a cat")).images[0].data == PNG
