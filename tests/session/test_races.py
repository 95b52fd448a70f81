"""A connection that the gateway closes as it is used again: only a proven race is free.

Row N6 of the fault matrix. The gateway is a plain socket that acts right before and right after
an order is written, while the client's loop can see nothing of it.
"""

import asyncio
import json
import socket
import ssl
import struct
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, nullcontext, suppress
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
from aiohttp import TCPConnector

from imagen_async import (
    AsyncImagen,
    Charge,
    ImagenError,
    NotSentError,
    OutcomeUnknownError,
    RetryPolicy,
)
from imagen_async.session import connection
from imagen_async.session.connection import SentFlagPayload
from imagen_async.session.exchange import usable
from tests.chaos.harness import client, leakless
from tests.chaos.server import head

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tell"),
    pytest.mark.usefixtures("both_ways"),
]

ONCE = RetryPolicy(max_attempts=1)
ANSWER = json.dumps({"data": [{"url": "https://gateway.test/image.png"}]}).encode()
Run = Callable[[Coroutine[Any, Any, None]], None]


class Peer:
    """The gateway's end of its connections, one at a time.

    Args:
        context: For TLS.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.context = context
        scheme = "https" if context else "http"
        self.origin = f"{scheme}://127.0.0.1:{self.listener.getsockname()[1]}"
        self.accepted: list[socket.socket] = []
        self.opened: Any = None
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                opened, _ = self.listener.accept()
                if self.context is not None:
                    opened = self.context.wrap_socket(opened, server_side=True)
                self.accepted.append(opened)

    def end(self) -> None:
        """Forget the connection."""
        if self.opened is not None:
            self.opened.close()

    def read(self) -> None:
        """Read a whole order."""
        text = b""
        while not (b"\r\n\r\n" in text and text.endswith(b"}")):
            text += self.opened.recv(65536)

    def bite(self) -> None:
        """Read the beginning of an order."""
        self.opened.recv(20)

    def answer(self) -> None:
        """Answer, and keep the connection."""
        self.opened.sendall(head(200, len(ANSWER)) + ANSWER)

    def begin(self) -> None:
        """Send the first bytes of an answer."""
        self.opened.sendall(b"HTTP/1.1 20")

    def shut(self) -> None:
        """Send a FIN, and go on to read."""
        socket.socket.shutdown(self.opened, socket.SHUT_WR)

    def close(self) -> None:
        """Close: with a FIN, or with an RST if something lies unread."""
        if self.context is not None:
            self.opened.settimeout(0)
            with suppress(OSError):  # it waits for theirs, or finds an order instead
                self.opened.unwrap()  # says goodbye
        self.opened.close()

    def reset(self) -> None:
        """Close with an RST."""
        self.opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.opened.close()

    async def play(self, acts: str) -> None:
        """Do what the words say, one after another."""
        for act in acts.split():
            if act == "accept":
                while not self.accepted:
                    await asyncio.sleep(0.001)
                self.end()
                self.opened = self.accepted.pop()
            elif act == "wait":
                await asyncio.sleep(0.06)  # longer than a kernel keeps an ACK back
            else:
                getattr(self, act)()


@asynccontextmanager
async def playing(
    monkeypatch: pytest.MonkeyPatch, *acts: tuple[str, str], tls: bool = False, **options: Any
) -> AsyncIterator[tuple[Peer, AsyncImagen]]:
    """Run a client whose peer acts before and after each order that is written."""
    contexts: list[ssl.SSLContext | None] = [None, None]
    if tls:
        authority, server = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(server)
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        contexts = [server, trusting]
    peer, left, tasks = Peer(contexts[0]), list(acts), list[asyncio.Task[None]]()
    write, send, connect = SentFlagPayload.write, SentFlagPayload.send, TCPConnector.connect

    async def after(words: str) -> None:
        if words:
            await asyncio.sleep(0.005)  # uvloop writes at the end of its turn
            await peer.play(words)

    async def slow_write(self: SentFlagPayload, writer: Any) -> None:
        await peer.play(left[0][0])
        await write(self, writer)
        await after(left.pop(0)[1])

    async def slow_connect(self: TCPConnector, request: Any, **rest: Any) -> Any:
        opened = await connect(self, request, **rest)
        if not request.body:  # it goes over the connection itself
            await peer.play(left[0][0])
        return opened

    def slow_send(self: SentFlagPayload, opened: Any, text: str) -> None:
        words = left.pop(0)[1]
        send(self, opened, text)
        tasks.append(asyncio.create_task(after(words)))

    usable()  # once in a process it sends something itself
    monkeypatch.setattr(SentFlagPayload, "write", slow_write)
    monkeypatch.setattr(SentFlagPayload, "send", slow_send)
    monkeypatch.setattr(TCPConnector, "connect", slow_connect)
    monkeypatch.setattr(connection, "PATIENCE", (0.0, 0.02, 0.04, 0.06))
    options = {"retry": ONCE, "ssl": contexts[1], "base_url": f"{peer.origin}/v1"} | options
    if options.get("proxy"):
        options["proxy"] = peer.origin
    try:
        # uvloop opens a descriptor of its own while it runs, and keeps it.
        kind = type(asyncio.get_running_loop()).__module__
        async with nullcontext() if kind.startswith("uvloop") else leakless():
            async with client(**options) as imagen:
                yield peer, imagen
                await asyncio.gather(*tasks)
            peer.end()
            assert not left
    finally:
        peer.listener.shutdown(socket.SHUT_RDWR)
        peer.listener.close()


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Return what runs a coroutine on each kind of loop."""
    if request.param == "asyncio":
        return asyncio.run
    import uvloop

    return uvloop.run


GOOD = ("accept", "read answer")
"""A first order, after which the connection is kept."""


@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "fresh"])
def test_a_race_is_free(run: Run, monkeypatch: pytest.MonkeyPatch, tls: bool, kept: bool) -> None:
    """An order that met a closed connection was not sent, and a new connection takes it."""
    race = ("close", "") if kept else ("accept close", "")

    async def main() -> None:
        script = [*([GOOD] if kept else []), race, GOOD]
        async with playing(monkeypatch, *script, tls=tls, retry=RetryPolicy()) as (_, imagen):
            if kept:
                await imagen.generate("first")
            generation = await imagen.generate("p")
            assert generation.attempts == 2
            assert imagen.stats().unknown == 0

    run(main())


def test_a_race_says_what_happened(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error tells that nothing was read, and that nothing was charged."""

    async def main() -> None:
        async with playing(monkeypatch, GOOD, ("close", "")) as (_, imagen):
            await imagen.generate("first")
            with pytest.raises(NotSentError, match="had not read the request") as caught:
                await imagen.generate("p")
            assert caught.value.charge is Charge.NO

    run(main())


PAID = {
    "FIN": ("", "read close"),
    "FIN, later": ("", "read wait close"),
    "RST": ("", "read reset"),
    "RST, later": ("", "read wait reset"),
    "FIN, and the connection stays": ("", "read shut"),
    "a part of the answer": ("", "read begin close"),
    "a part of the order read": ("", "bite close"),
    "nothing of the order read": ("", "wait close"),
    "nothing of the order read, FIN": ("", "wait shut"),
    "a FIN before the order is read": ("shut", "read"),
    "a FIN before the order is read, and the end": ("shut", "read close"),
    "a FIN before the order lies in the kernel": ("shut", "wait"),
    "a FIN before the order, an RST after it": ("shut", "read wait reset"),
}
"""What a gateway does that took an order: before it came, and after."""


@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "fresh"])
@pytest.mark.parametrize("name", PAID)
def test_an_order_that_was_taken(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str, tls: bool, kept: bool
) -> None:
    """An order that reached the gateway's kernel may be paid for: it is sent once."""
    before, after = PAID[name]

    async def main() -> None:
        script = [GOOD, (before, after)] if kept else [(f"accept {before}", after)]
        async with playing(monkeypatch, *script, tls=tls, retry=RetryPolicy()) as (_, imagen):
            if kept:
                await imagen.generate("first")
            with pytest.raises(OutcomeUnknownError) as caught:
                await imagen.generate("p")
            assert (caught.value.charge, caught.value.attempts) == (Charge.MAYBE, 1)

    run(main())


async def raced(monkeypatch: pytest.MonkeyPatch, **options: Any) -> ImagenError:
    """Return the error of a call that met a closed connection."""
    async with playing(monkeypatch, GOOD, ("close", ""), **options) as (_, imagen):
        await imagen.generate("first")
        with pytest.raises(ImagenError) as caught:
            await imagen.generate("p")
        return caught.value


@pytest.mark.filterwarnings("ignore:The API key goes to:UserWarning")
async def test_a_proxy_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a proxy nothing is called free: it is the proxy's kernel that is asked."""
    error = await raced(monkeypatch, base_url="http://gateway.test/v1", proxy="peer")
    assert error.charge is Charge.MAYBE


async def test_no_descriptor_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a descriptor to hold the socket by, the race is unknown as before."""

    def dup(self: socket.socket) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket.socket, "dup", dup)
    assert (await raced(monkeypatch)).charge is Charge.MAYBE


async def test_a_kernel_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel lacks the counts, the race is unknown as before."""

    def ioctl(*args: Any) -> bytes:
        raise OSError(25, "Inappropriate ioctl for device")

    monkeypatch.setattr(connection, "ioctl", ioctl)
    assert (await raced(monkeypatch)).charge is Charge.MAYBE


async def test_cancelled_while_it_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that is cancelled while nobody knows yet lets the socket go."""
    async with playing(monkeypatch, GOOD, ("shut", "")) as (_, imagen):
        await imagen.generate("first")
        monkeypatch.setattr(connection, "PATIENCE", (10.0,))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(imagen.generate("p"), 0.05)


@pytest.mark.parametrize("transport", [None, SimpleNamespace(is_closing=lambda: True)])
async def test_a_connection_that_ended_before_the_order(transport: Any) -> None:
    """An order whose connection is gone when it would be written is not written, nor sent."""
    gone = connection.Connection(loop=asyncio.get_running_loop())
    gone.transport = transport
    outgoing = SentFlagPayload(b"{}")
    with pytest.raises(BrokenPipeError):
        await outgoing.write(SimpleNamespace(protocol=gone))  # type: ignore[arg-type]
    with pytest.raises(BrokenPipeError):
        outgoing.send(gone, "")
    assert not outgoing.sent


@pytest.mark.parametrize(("end", "free"), [("close", True), ("reset", False)])
async def test_a_farewell_before_the_end(end: str, free: bool) -> None:
    """A connection that TLS took leave of is still open: what ends it then, decides."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        peer = Peer.__new__(Peer)
        peer.context, peer.opened = None, listener.accept()[0]
        ended = connection.Ended(ours.dup())
        getattr(peer, end)()
        with ours, suppress(OSError):
            ours.send(b"order")
        assert await ended.unread(len(b"order")) is free
        ended.close()
