"""A gateway of asyncio streams that breaks what it is told to break and keeps the books.

A fault is an async function of one Exchange. It decides when the image is *generated*, which is
when it is charged, delivered or not: that is what makes a lost answer expensive.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
import struct
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias

import attrs

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYPhfDwAChAGA60e6kgAAAABJRU5ErkJggg=="
)


@attrs.define
class Ledger:
    """What the server saw and did.

    Args:
        connections: Accepted, whatever came of them.
        begun: Bytes that arrived on connections, requests or not.
        requests: Whole requests of each prompt.
        keys: The Idempotency-Keys of each prompt.
        bodies: The bytes that each prompt came in.
        heads: The heads of all requests, as text.
        charges: Images generated for each prompt.
    """

    connections: int = 0
    begun: int = 0
    requests: Counter[str] = attrs.field(factory=Counter)
    keys: dict[str, list[str]] = attrs.field(factory=lambda: defaultdict(list))
    bodies: dict[str, set[bytes]] = attrs.field(factory=lambda: defaultdict(set))
    heads: list[str] = attrs.field(factory=list)
    charges: Counter[str] = attrs.field(factory=Counter)

    @property
    def bought_twice(self) -> int:
        """Prompts charged more than once."""
        return sum(1 for charges in self.charges.values() if charges > 1)


@attrs.define(eq=False)
class Exchange:
    """One request and the socket that it came by."""

    prompt: str
    key: str
    server: ChaosServer
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    alive: bool = True

    def generate(self) -> bytes:
        """Make the image, charge it, and return the answer's body; it echoes the prompt."""
        self.server.ledger.charges[self.prompt] += 1
        item = {"b64_json": base64.b64encode(PNG).decode(), "revised_prompt": self.prompt}
        return json.dumps({"created": 1, "data": [item]}).encode()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(
        self, body: bytes, status: int | str = 200, *headers: str, length: int | None = -1
    ) -> None:
        """Send a whole answer; ``length`` overrides Content-Length, None leaves it out."""
        await self.send(head(status, len(body) if length == -1 else length, *headers) + body)

    def reset(self) -> None:
        """Break the connection with RST."""
        self.alive = False
        opened = self.writer.get_extra_info("socket")
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self) -> None:
        """End the connection with FIN."""
        self.alive = False
        self.writer.close()

    async def add(self) -> None:
        """Say nothing until the client leaves."""
        self.alive = False
        with suppress(ConnectionError):
            while await self.reader.read(4096):
                pass
        self.writer.close()


def head(status: int | str, length: int | None, *headers: str) -> bytes:
    """Return an answer's head."""
    lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json", *headers]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


Fault: TypeAlias = Callable[[Exchange], Awaitable[None]]


async def fine(exchange: Exchange) -> None:
    """Answer as a good gateway does."""
    await exchange.answer(exchange.generate())


async def missing(exchange: Exchange) -> None:
    """Know nothing of what is asked."""
    await exchange.answer(b"", 404)


class ChaosServer:
    """Plays, for each POST, the next fault of its prompt, or what ``choose`` picks.

    ``gets`` is what it does with each GET.

    Args:
        script: Faults of each prompt in turn; then ``default``.
        default: What happens to all others.
        choose: Picks a fault for a request, before the script is looked at.
    """

    def __init__(
        self,
        script: dict[str, Iterable[Fault]] | None = None,
        default: Fault = fine,
        choose: Callable[[str], Fault | None] = lambda prompt: None,
    ) -> None:
        self.ledger = Ledger()
        self.script = {prompt: deque(faults) for prompt, faults in (script or {}).items()}
        self.default = default
        self.choose = choose
        self.gets: Fault = missing
        self.port = 0
        self.scheme = "http"
        self.problems: list[BaseException] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def base_url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/v1"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle one connection; asyncio's callback."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        self.ledger.connections += 1
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        except Exception as error:  # noqa: BLE001 - shown by the test
            self.problems.append(error)
        finally:
            writer.close()
            with suppress(ConnectionError, ssl.SSLError, asyncio.CancelledError):
                await writer.wait_closed()
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        raw = await reader.readuntil(b"\r\n\r\n")
        text = raw.decode("latin-1")
        self.ledger.begun += len(raw)
        self.ledger.heads.append(text)
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in text.split("\r\n")[1:])
        }
        if text.startswith("GET "):
            exchange = Exchange("", "", self, reader, writer)
            await self.gets(exchange)
            return exchange.alive
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.ledger.begun += len(body)
        prompt = json.loads(body)["prompt"]
        key = headers.get("idempotency-key", "")
        self.ledger.requests[prompt] += 1
        self.ledger.keys[prompt].append(key)
        self.ledger.bodies[prompt].add(body)
        exchange = Exchange(prompt, key, self, reader, writer)
        await self._fault(prompt)(exchange)
        return exchange.alive

    def _fault(self, prompt: str) -> Fault:
        chosen = self.choose(prompt)
        if chosen is not None:
            return chosen
        faults = self.script.get(prompt)
        return faults.popleft() if faults else self.default

    async def aclose(self) -> None:
        """Break every connection and wait for its handler."""
        for writer in list(self._writers):
            writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        while self._tasks:
            await asyncio.wait(list(self._tasks))
        if self.problems:
            raise self.problems[0]


@asynccontextmanager
async def serving(
    *args: Any, context: ssl.SSLContext | None = None, **kwargs: Any
) -> AsyncIterator[ChaosServer]:
    """Run a chaos server on loopback."""
    server = ChaosServer(*args, **kwargs)
    listener = await asyncio.start_server(
        server.serve, "127.0.0.1", 0, ssl=context, limit=2**20, backlog=1000
    )
    server.port = listener.sockets[0].getsockname()[1]
    server.scheme = "https" if context else "http"
    try:
        yield server
    finally:
        listener.close()
        await server.aclose()
        await listener.wait_closed()
