"""A bare HTTP server for benchmarks: canned answers, as fast as asyncio allows, and a ledger.

Run as ``python benchmarks/server.py``; it prints its port and serves until its stdin closes.
Base URLs: ``/v1`` answers one link; ``/slow/v1`` one link after a second; ``/50ms/v1`` after 50
milliseconds, or any other number of them; ``/b64/v1`` four images of 2 MB; ``/one/v1`` one of
16 MiB; ``/small/v1`` one of 2 KB; ``/link/v1`` a link to a file of 1.5 MB here.
``/fault/KIND/WHEN/NAME/v1`` makes and charges an image, then fails: KIND is one of ``FAULTS``,
WHEN is ``always`` or ``once`` for the first request of each prompt, and NAME
separates the accounts that ``GET /ledger`` tells.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import resource
import struct
import sys
import zlib
from base64 import b64encode
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import cache
from typing import cast

LINK = "https://files.example/2026/11/22/9f86d081884c7d659a2feaa0c55ad015.png?sig=" + "a" * 160
POST = b"/images/generations"
DELAY = re.compile(rb"/(\d+)ms/v1")
LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
PROMPT = re.compile(rb'"prompt": ?"([^"]*)"')
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


def png(size: int, side: int = 1024) -> bytes:
    """Return a PNG of about ``size`` bytes that claims ``side`` x ``side`` pixels."""
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    noise = os.urandom(max(size - 100, 16))
    body = b"".join(_chunk(b"IDAT", noise[i : i + 65536]) for i in range(0, len(noise), 65536))
    return b"\x89PNG\r\n\x1a\n" + head + body + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _answer(body: bytes, kind: str = "application/json", status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _document(item: dict[str, str], count: int = 1) -> bytes:
    return _answer(json.dumps({"created": 1763800000, "data": [item] * count}).encode())


def _images(count: int, size: int) -> bytes:
    items = [{"b64_json": b64encode(png(size)).decode()} for _ in range(count)]
    return _answer(json.dumps({"created": 1763800000, "data": items}).encode())


LINK_ANSWER = _document({"url": LINK})
GATEWAY_TIMEOUT = _answer(
    b"<html><title>504 Gateway Time-out</title></html>", "text/html", "504 Gateway Time-out"
)
BODIES: dict[bytes, Callable[[], bytes]] = {
    b"/v1": lambda: LINK_ANSWER,
    b"/slow/v1": lambda: LINK_ANSWER,
    b"/b64/v1": lambda: _images(4, 2_000_000),
    b"/one/v1": lambda: _images(1, 16 * 1024 * 1024),
    b"/small/v1": lambda: _images(1, 2_000),
}
FAULTS: dict[bytes, bytes] = {
    b"drop": b"",
    b"cut": LINK_ANSWER[: -len(LINK) // 2],
    b"504": GATEWAY_TIMEOUT,
}
"""What is sent before the connection is closed; for 504 it stays open."""

charges: defaultdict[str, Counter[bytes]] = defaultdict(Counter)
"""Charges by base path, then by prompt."""


@cache
def _canned(base: bytes) -> bytes:
    return BODIES[base]()


@cache
def _file(size: int) -> bytes:
    return _answer(png(size), "image/png")


def _ledger() -> bytes:
    accounts = {
        path: {"calls": len(prompts), "charges": prompts.total()}
        for path, prompts in charges.items()
    }
    return _answer(json.dumps(accounts).encode())


class Server(asyncio.Protocol):
    """Answers each request on a connection; bodies are skipped by their length."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(self.buffer, 0, end)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self.buffer) < whole:
                return
            path = self.buffer.split(b" ", 2)[1]
            body = self.buffer[end + 4 : whole]
            self.buffer = self.buffer[whole:]
            self.answer(path, body)

    def answer(self, path: bytes, body: bytes) -> None:
        base = path.removesuffix(POST)
        if base in BODIES:
            if base == b"/slow/v1":
                asyncio.get_running_loop().call_later(1.0, self.transport.write, LINK_ANSWER)
            else:
                self.transport.write(_canned(base))
        elif delay := DELAY.fullmatch(base):
            loop = asyncio.get_running_loop()
            loop.call_later(int(delay[1]) / 1000, self.transport.write, LINK_ANSWER)
        elif base.startswith(b"/fault/"):
            self.fail(base, body)
        elif base == b"/link/v1":
            port = self.transport.get_extra_info("sockname")[1]
            url = f"http://127.0.0.1:{port}/files/1500000.png"
            self.transport.write(_document({"url": url}))
        elif path.startswith(b"/files/"):
            self.transport.write(_file(int(path[7:].split(b".")[0])))
        else:
            self.transport.write(_ledger() if path == b"/ledger" else NOT_FOUND)

    def fail(self, base: bytes, body: bytes) -> None:
        """Charge an image, then lose it."""
        _, _, kind, when, _ = base.split(b"/", 4)
        account = charges[base.decode()]
        found = PROMPT.search(body)
        prompt = found[1] if found else b""
        account[prompt] += 1
        if when == b"once" and account[prompt] > 1:
            self.transport.write(LINK_ANSWER)
            return
        self.transport.write(FAULTS[kind])
        if kind != b"504":
            self.transport.close()


async def main() -> None:
    """Serve on a free loopback port until stdin closes."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.install()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
