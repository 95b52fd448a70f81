"""Closed connections and pauses: what the client says beside what the gateway did.

Run as ``python -m benchmarks.races`` on Linux; it fails if a figure is missed. The gateway is
threads on plain sockets; the client is a process of its own, which is stopped and continued like
any job of a shell. A prompt says what the gateway does with it: a method's name and its seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
import os
import random
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import trustme

from tests.chaos.server import PNG, head

IDLE = 0.01
"""Seconds until the client calls again; the gateway closes idle connections around then."""
PAUSE = 3
ANSWER = 2
"""Seconds that a process stands still, and those that an answer may take."""
HERE = [sys.executable, "-m", "benchmarks.races"]


class Gateway:
    """A gateway of one thread a connection, which keeps the books.

    Args:
        context: For TLS.
        idle: Whether it closes idle connections.
    """

    def __init__(self, context: ssl.SSLContext | None = None, *, idle: bool = False) -> None:
        self.charges: Counter[str] = Counter()
        self.context, self.idle = context, idle
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self.origin = f"{'https' if context else 'http'}://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.listener.getsockname()[1])

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                opened, _ = self.listener.accept()
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._serve, args=(opened,), daemon=True).start()

    def _serve(self, opened: socket.socket) -> None:
        with suppress(OSError, ValueError):
            if self.context:
                opened = self.context.wrap_socket(opened, server_side=True)
            while self._exchange(opened):
                wait = random.gauss(IDLE + 0.0007, 0.0003)  # a loop wakes late
                if self.idle and not select.select([opened], [], [], wait)[0]:
                    break
            if isinstance(opened, ssl.SSLSocket):
                opened.settimeout(0)
                with suppress(OSError):
                    opened.unwrap()  # sends close_notify
        opened.close()

    def _exchange(self, opened: socket.socket) -> bool:
        """Take one order; return whether the connection goes on."""
        text = bytearray()
        while b"\r\n\r\n" not in text:
            text += (piece := opened.recv(100))
            if not piece:
                return False
        top, _, body = bytes(text).partition(b"\r\n\r\n")
        if top.startswith(b"GET"):
            opened.sendall(head(200, len(PNG)) + PNG)
            return True
        size = int(top.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while len(body) < min(size, 120):
            body += opened.recv(10)
        how, seconds, number = body.partition(b'"prompt":"')[2].partition(b'"')[0].split()[:3]
        if how != b"half":
            while len(body) < size:
                body += opened.recv(65536)
        self.charges[number.decode()] += 1
        return bool(getattr(self, f"_{how.decode()}")(opened, float(seconds)))

    def _answer(self, opened: socket.socket, **item: str) -> bool:
        answer = json.dumps({"data": [item]}).encode()
        opened.sendall(head(200, len(answer)) + answer)
        return True

    def _fine(self, opened: socket.socket, seconds: float) -> bool:
        """Answer."""
        time.sleep(seconds)
        return self._answer(opened, b64_json=base64.b64encode(PNG).decode())

    def _link(self, opened: socket.socket, seconds: float) -> bool:
        """Answer with a link."""
        time.sleep(seconds)
        return self._answer(opened, url=f"{self.origin}/image.png")

    def _fin(self, _: socket.socket, seconds: float) -> bool:
        """Close."""
        time.sleep(seconds)
        return False

    _half = _fin  # with the rest of the order unread

    def _rst(self, opened: socket.socket, seconds: float) -> bool:
        """Reset."""
        time.sleep(seconds)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    def _shut(self, opened: socket.socket, seconds: float) -> bool:
        """Shut the own side, and close later."""
        opened.shutdown(socket.SHUT_WR)
        time.sleep(seconds)
        return False

    def _part(self, opened: socket.socket, seconds: float) -> bool:
        """Close within the answer's head."""
        opened.sendall(b"HTTP/1.1 20")
        time.sleep(seconds)
        return False

    def _early(self, opened: socket.socket, seconds: float) -> bool:
        """Answer, shut the own side, and take one more order."""
        self._fine(opened, 0)
        time.sleep(seconds)
        opened.shutdown(socket.SHUT_WR)
        return True

    def _deaf(self, opened: socket.socket, seconds: float) -> bool:
        """Answer, and let the next order lie in the kernel's buffer, charged: then shut down."""
        self._fine(opened, 0)
        time.sleep(0.05)
        opened.shutdown(socket.SHUT_WR)
        time.sleep(seconds)
        return False


async def client(base_url: str, prompts: list[list[str]], options: dict[str, Any]) -> list[Any]:
    """Send rows of prompts, each row on connections of its own; return what each prompt cost."""
    from imagen_async import AsyncImagen, ImagenError, Limits, RetryPolicy, Timeouts

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    found: list[Any] = []
    for row in prompts:
        async with AsyncImagen(
            base_url=base_url,
            api_key="k",
            limits=Limits(concurrency=len(row)),
            retry=RetryPolicy(max_attempts=1),
            timeouts=Timeouts(answer=options.get("answer", 60)),
            ssl=context,
        ) as imagen:

            async def call(prompt: str, imagen: Any = imagen) -> None:
                try:
                    generation = await imagen.generate(prompt)
                    await imagen.read(generation.images[0])
                    found.append([prompt, "done"])
                except ImagenError as error:
                    found.append([prompt, str(error.charge)])

            if options.get("together"):
                calls = asyncio.gather(*map(call, row))
                if options.get("block"):
                    await asyncio.sleep(0.5)
                    time.sleep(PAUSE)
                await calls
            else:
                for prompt in row:
                    await call(prompt)
                    await asyncio.sleep(IDLE)
    return found


def ask(gateway: Gateway, loop: str, rows: list[list[str]], **options: Any) -> list[Any]:
    """Run a client in a process; stop and continue it if ``stop`` says so."""
    order = {"base_url": f"{gateway.origin}/v1", "prompts": rows, "options": options}
    child = subprocess.Popen(
        [*HERE, "--client", loop], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    child.stdin.write(json.dumps(order).encode() + b"\n")
    child.stdin.flush()
    if options.get("stop"):
        pause(gateway, child, len(rows[0]))
    told, _ = child.communicate(timeout=900)
    return list(json.loads(told))


def pause(gateway: Gateway, child: subprocess.Popen[bytes], orders: int) -> None:
    """Stop a process as soon as its orders have come, and continue it."""
    while gateway.charges.total() < orders and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGSTOP)
    time.sleep(PAUSE)
    child.send_signal(signal.SIGCONT)


def races(loop: str, context: ssl.SSLContext | None, calls: int) -> tuple[int, int, int]:
    """Call again just as idle connections are closed; return the free, the unknown, the wrong."""
    gateway = Gateway(context, idle=True)
    found = ask(gateway, loop, [[f"fine 0 {number} end" for number in range(calls)]])
    ends = Counter(end for _, end in found)
    wrong = sum(end == "no" and gateway.charges[prompt.split()[2]] for prompt, end in found)
    return ends["no"], ends["maybe"], wrong


DROPS = ("fin", "rst", "shut", "part", "half", "half-long")
DELAYS = (0, 0, 0.0001, 0.001, 0.01, 0.05)


def drops(loop: str, context: ssl.SSLContext | None, rounds: int) -> tuple[int, int]:
    """Drop paid orders in every way; return how many, and how many were called free."""
    gateway, numbers = Gateway(context), itertools.count()
    rows: list[list[str]] = []
    for how, seconds, _ in itertools.product(DROPS, DELAYS, range(rounds)):
        size = 400_000 if "-" in how else 100
        paid = [f"{how.split('-')[0]} {seconds} {next(numbers)} {'x' * size}" for _ in "ab"]
        rows += [paid[:1], [f"fine 0 {next(numbers)} end", paid[1]]]  # on a fresh and a kept one
    for how, seconds, _ in itertools.product(("early", "deaf"), DELAYS, range(rounds)):
        rows += [[f"{how} {seconds} {next(numbers)} end", f"fin 0 {next(numbers)} end"]]
    lost = [end for end in ask(gateway, loop, rows) if end[1] != "done"]
    charged = [end for prompt, end in lost if gateway.charges[prompt.split()[2]]]
    return len(charged), charged.count("no")


def lost(loop: str, how: str, kind: str, calls: int = 100) -> int:
    """Return how many paid images a pause takes from a client with so many calls in flight."""
    gateway = Gateway()
    prompts = [f"{kind} 1 {number} end" for number in range(calls)]
    found = ask(gateway, loop, [prompts], answer=ANSWER, together=True, **{how: True})
    return gateway.charges.total() - sum(end == "done" for _, end in found)


def lost_by_command(kind: str, *words: str, calls: int = 24) -> int:
    """Return how many paid images a stopped and continued command line loses."""
    gateway = Gateway()
    with tempfile.TemporaryDirectory() as folder:
        prompts = [f"{kind} 1 {number} end" for number in range(calls)]
        Path(folder, "prompts.txt").write_text("\n".join(prompts))
        words = tuple(word.format(folder=folder, prompt=prompts[0]) for word in words)
        options = ("--base-url", f"{gateway.origin}/v1", "--timeout", str(ANSWER))
        child = subprocess.Popen(
            [sys.executable, "-m", "imagen_async", *words, *options],
            env={**os.environ, "IMAGEN_API_KEY": "k"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        pause(gateway, child, 1 if words[0] == "generate" else calls)
        child.wait(60)
        return gateway.charges.total() - len(list(Path(folder).rglob("*.png")))


def rows(calls: int, rounds: int) -> Iterator[tuple[str, object, bool]]:
    """Measure, and yield a name, a figure and whether it is good."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(server)
    for loop, context in itertools.product(("asyncio", "uvloop"), (None, server)):
        where = f"{loop}, {'https' if context else 'http'}"
        free, unknown, wrong = races(loop, context, calls)
        yield f"{where}: races called free, of {calls} calls", free, not wrong
        yield f"{where}:   unknown", unknown, unknown <= calls / 50
        yield f"{where}:   free and charged", wrong, not wrong
        paid, wrong = drops(loop, context, rounds)
        yield f"{where}: {paid} paid orders dropped, called free", wrong, not wrong
    for loop, how, kind in itertools.product(
        ("asyncio", "uvloop"), ("stop", "block"), ("fine", "link")
    ):
        figure = lost(loop, how, kind)
        yield f"{loop}, {how}, {kind}: lost of 100 in flight", figure, not figure
    for kind in ("fine", "link"):
        batch = ("batch", "{folder}/prompts.txt", "--out", "{folder}/out", "--concurrency", "24")
        figure = lost_by_command(kind, *batch)
        yield f"imagen-async batch, {kind}: lost of 24", figure, not figure
        figure = lost_by_command(kind, "generate", "{prompt}", "--output", "{folder}")
        yield f"imagen-async generate, {kind}: lost of 1", figure, not figure


def main() -> int:
    """Print the table; return how many figures were missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--client", metavar="LOOP")
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    if options.client:
        if options.client == "uvloop":
            import uvloop

            asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        print(json.dumps(asyncio.run(client(**json.loads(sys.stdin.readline())))))
        return 0
    missed = 0
    for name, value, good in rows(options.calls, options.rounds):
        print(f"{'' if good else 'MISSED':7}{name:60} {value}", flush=True)
        missed += not good
    return missed


if __name__ == "__main__":
    sys.exit(main())
