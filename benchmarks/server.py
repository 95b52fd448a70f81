"""A bare HTTP server for benchmarks: one canned answer per path, as fast as asyncio allows.

Run as ``python benchmarks/server.py``; it prints its port and serves until its stdin closes.
Paths: ``/v1/images/generations`` answers one link; ``/b64/v1/images/generations`` four images of
2 MB; ``/small/v1/images/generations`` one small image; ``/slow/v1/images/generations`` one link
after a second; ``/files/N.png`` a PNG of about N bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import struct
import sys
import zlib
from base64 import b64encode
from typing import cast

LINK = "https://files.example/2026/11/22/9f86d081884c7d659a2feaa0c55ad015.png?sig=" + "a" * 160


def png(size: int, side: int = 1024) -> bytes:
    """Return a PNG of about ``size`` bytes that claims ``side`` x ``side`` pixels."""
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    noise = os.urandom(max(size - 100, 16))
    body = b"".join(_chunk(b"IDAT", noise[i : i + 65536]) for i in range(0, len(noise), 65536))
    return b"\x89PNG\r\n\x1a\n" + head + body + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _answer(body: bytes, kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _links(count: int = 1) -> bytes:
    return json.dumps({"created": 1763800000, "data": [{"url": LINK}] * count}).encode()


def _images(count: int, size: int) -> bytes:
    items = [{"b64_json": b64encode(png(size)).decode()} for _ in range(count)]
    return json.dumps({"created": 1763800000, "data": items}).encode()


ANSWERS = {
    b"/v1/images/generations": _answer(_links()),
    b"/slow/v1/images/generations": _answer(_links()),
    b"/b64/v1/images/generations": _answer(_images(4, 2_000_000)),
    b"/one/v1/images/generations": _answer(_images(1, 16 * 1024 * 1024)),
    b"/small/v1/images/generations": _answer(_images(1, 2_000)),
}
FILES: dict[bytes, bytes] = {}


class Server(asyncio.Protocol):
    """Answers each request on a connection; bodies are skipped by their length."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            length = 0
            at = head.find(b"content-length:")
            if at >= 0:
                length = int(head[at + 15 :].split(b"\r\n", 1)[0])
            if len(self.buffer) < end + 4 + length:
                return
            path = self.buffer.split(b" ", 2)[1]
            self.buffer = self.buffer[end + 4 + length :]
            self.answer(path)

    def answer(self, path: bytes) -> None:
        if path.startswith(b"/files/"):
            size = path[7:].split(b".")[0]
            answer = FILES.setdefault(size, b"") or FILES.update(
                {size: _answer(png(int(size)), "image/png")}
            )
            self.transport.write(answer or FILES[size])
        elif path.startswith(b"/link/"):
            port = self.transport.get_extra_info("sockname")[1]
            url = f"http://127.0.0.1:{port}/files/1500000.png"
            self.transport.write(
                _answer(json.dumps({"created": 1, "data": [{"url": url}]}).encode())
            )
        elif path.startswith(b"/slow/"):
            loop = asyncio.get_running_loop()
            loop.call_later(1.0, self.transport.write, ANSWERS[path])
        else:
            self.transport.write(
                ANSWERS.get(path) or b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n"
            )


async def main() -> None:
    """Serve on a free loopback port until stdin closes."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.install()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
