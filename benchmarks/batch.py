"""What a durable batch costs: items a second, CPU of journal and files, memory, resume.

Run it with ``python benchmarks/batch.py [items]``. The CPU of journal and files is shown beside the
bare floor of the same minute: files written, synced and named, and rows committed, with nothing
around it. ``--resume N`` makes a batch of N done items by hand and goes on with it.

The server is another process that answers
at once with one small image as base64, so that everything measured is ours. Files go to the folder
of ``--out``, which should be on a real disk: every image is synced. On ext4, begin five minutes
after thousands of files were removed there: until then it passes over their inodes, one by one,
at each new file (``recently_deleted`` in the kernel's ``fs/ext4/ialloc.c``), which triples the
system's part.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import gc
import json
import os
import resource
import shutil
import sqlite3
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from imagen_async import AsyncImagen, GenerationRequest, Limits
from imagen_async.batch import recovery, schema
from imagen_async.batch.defaults import make_defaults
from imagen_async.batch.identity import body_digest
from imagen_async.batch.item_files import NEIGHBOURS
from imagen_async.batch.journal import SqliteView
from imagen_async.batch.prompts import read_source
from imagen_async.batch.records import Item, KeptAnswer, KeptImage, RequestRow
from imagen_async.batch.run import Run, RunOptions
from imagen_async.batch.statements import Writer, sending, settled
from imagen_async.batch.states import State
from imagen_async.errors import Charge

CONCURRENCY = 32
RESUMED = 200_000


def png(side: int = 8) -> bytes:
    """Return a small whole PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = b"".join(b"\0" + os.urandom(3 * side) for _ in range(side))
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


class Bare(asyncio.Protocol):
    """Answers every request on a connection with the same bytes."""

    def __init__(self) -> None:
        body = json.dumps(
            {"created": 1, "data": [{"b64_json": base64.b64encode(png()).decode()}]}
        ).encode()
        head = (
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self._answer = head.encode() + body
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            if len(self._buffer) < end + 4 + length:
                return
            self._buffer = self._buffer[end + 4 + length :]
            self._transport.write(self._answer)


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Bare, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def client(port: int) -> AsyncImagen:
    return AsyncImagen(
        base_url=f"http://127.0.0.1:{port}/v1",
        model="imagen4",
        limits=Limits(concurrency=CONCURRENCY),
    )


def prompts(count: int) -> Iterator[GenerationRequest]:
    for number in range(count):
        yield GenerationRequest(f"a small house, number {number}", response_format="b64_json")


def rss() -> float:
    """Return the resident memory of this process in MiB."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


async def many(port: int, count: int) -> tuple[float, float]:
    """Return seconds and CPU seconds of generate_many."""
    async with client(port) as imagen:
        began, cpu = time.perf_counter(), time.process_time()
        async with imagen.generate_many(prompts(count)) as outcomes:
            async for outcome in outcomes:
                assert outcome.ok, outcome.error
        return time.perf_counter() - began, time.process_time() - cpu


async def batch(
    port: int, count: int, out: Path, marks: tuple[int, ...] = ()
) -> tuple[float, float, list[float]]:
    """Return seconds, CPU seconds, and MiB at the marks of a batch without its final lists."""
    memory: list[float] = []
    async with client(port) as imagen:
        run = Run(imagen._core, prompts(count), out, RunOptions(gallery=False))
        began, cpu, done = time.perf_counter(), time.process_time(), 0
        async with run:
            async for outcome in run:
                assert outcome.ok, outcome.error
                done += 1
                if done in marks:
                    memory.append(rss())
            seconds, used = time.perf_counter() - began, time.process_time() - cpu
        assert run.report.ok, run.report
        return seconds, used, memory


def floor(count: int, folder: Path) -> float:
    """Return the CPU seconds of the bare steps for each item, in groups of as many as in flight."""
    folder.mkdir()
    image, row = png(), json.dumps({"prompt": "a small house, number 1", "model": "imagen4"})
    connection = sqlite3.connect(folder / "bare.sqlite3", isolation_level=None)
    for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    connection.execute("CREATE TABLE item (id BLOB UNIQUE, row TEXT, state TEXT, answer TEXT)")
    began = time.process_time()
    for first in range(0, count, CONCURRENCY):
        numbers = range(first, min(first + CONCURRENCY, count))
        ids = [os.urandom(16) for _ in numbers]
        connection.execute("BEGIN IMMEDIATE")
        for each in ids:
            connection.execute("INSERT INTO item VALUES (?, ?, 'sending', NULL)", (each, row))
        connection.execute("COMMIT")
        files = [
            os.open(folder / f".{n}.part", os.O_CREAT | os.O_EXCL | os.O_RDWR) for n in numbers
        ]
        for file in files:
            os.write(file, image)
        for file in files:
            os.fsync(file)
            os.close(file)
        for n in numbers:
            os.rename(folder / f".{n}.part", folder / f"{n}.png")
        home = os.open(folder, os.O_RDONLY)
        os.fsync(home)
        os.close(home)
        connection.execute("BEGIN IMMEDIATE")
        for each in ids:
            connection.execute(
                "UPDATE item SET state = 'done', answer = ? WHERE id = ?", (row * 3, each)
            )
        connection.execute("COMMIT")
    used = time.process_time() - began
    connection.close()
    return used


def make_done(port: int, count: int, out: Path) -> None:
    """Make the folder of a batch that is done, each of its images an empty file."""
    out.mkdir()
    defaults = make_defaults("imagen4", {})
    connection = schema.connect(out)
    schema.begin(connection)
    terms = recovery.Terms(endpoint=f"http://127.0.0.1:{port}/v1", defaults=defaults.template)
    recovery.begin(SqliteView(connection), out, terms)
    writer = Writer(connection)
    for number, request in enumerate(prompts(count)):
        identity = body_digest(request, defaults)
        home = out / "images" / f"{number // NEIGHBOURS % 256:02x}"
        home.mkdir(parents=True, exist_ok=True)
        path = home / f"a-small-house-number-{number}-{identity.hex()[:12]}.png"
        path.touch()
        image = KeptImage(file_name=str(path.relative_to(out)), media_type="image/png", bytes=0)
        item = Item(
            identity, number, RequestRow(defaults.fill(request)), State.DONE, Charge.YES, images=1
        )
        item.answer = KeptAnswer(images=(image,))
        writer.add(identity, (sending(item, 1, 0), settled(item)))
        if number % 1000 == 999:
            writer.commit()
    writer.commit()
    schema.close(connection)


async def resume(port: int, count: int, out: Path) -> float:
    """Return the seconds until the first item after ``count`` done ones comes back."""
    source = out.with_suffix(".jsonl")
    with source.open("w") as file:
        for request in prompts(count + 1):
            file.write(json.dumps({"prompt": request.prompt, "response_format": "b64_json"}) + "\n")
    async with client(port) as imagen:
        began, used = time.perf_counter(), time.process_time()
        run = Run(imagen._core, read_source(source), out, RunOptions(gallery=False))
        async with run:
            async for outcome in run:
                assert outcome.ok, outcome.error
                assert outcome.index == count
                seconds = time.perf_counter() - began
                print(
                    f"  CPU until then: {time.process_time() - used:.2f} s; resident at most "
                    f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"
                )
        print(f"  end of the resumed run, its lists made anew: {time.perf_counter() - began:.2f} s")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("items", nargs="?", type=int, default=5000)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--resume", type=int, default=None, metavar="N")
    parser.add_argument("--long", action="store_true", help="200,000 items: memory and resume")
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve())
        return
    folder = Path(tempfile.mkdtemp(prefix="imagen-batch-", dir=options.out))
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        count = options.items
        if options.resume is not None:
            make_done(port, options.resume, folder / "done")
            took = asyncio.run(resume(port, options.resume, folder / "done"))
            print(f"resume of {options.resume} done items: first new item after {took:.2f} s")
            return
        asyncio.run(many(port, 500))
        rounds = []
        for number in range(options.rounds):
            plain, plain_cpu = asyncio.run(many(port, count))
            durable, durable_cpu, _ = asyncio.run(batch(port, count, folder / f"short-{number}"))
            bare = floor(count, folder / f"bare-{number}")
            rounds.append((plain, plain_cpu, durable, durable_cpu, durable_cpu - plain_cpu, bare))
        plain, plain_cpu, durable, durable_cpu, ours, bare = map(
            statistics.median, zip(*rounds, strict=True)
        )
        print(f"{count} items, concurrency {CONCURRENCY}, median of {options.rounds}")
        for name, took, used in (
            ("generate_many", plain, plain_cpu),
            ("batch", durable, durable_cpu),
        ):
            print(
                f"  {name:13} {count / took:6.0f} items/s  {used / count * 1e3:.3f} ms CPU an item"
            )
        print(f"  journal and files: {ours / count * 1e3:.3f} ms CPU an item")
        print(f"  bare floor:        {bare / count * 1e3:.3f} ms; ours is {ours / bare:.1f} x that")
        if options.long:
            seconds, _, memory = asyncio.run(batch(port, RESUMED, folder / "long", (5000, RESUMED)))
            print(f"{RESUMED} items: {RESUMED / seconds:.0f} items/s")
            print(
                f"  memory after 5,000: {memory[0]:.1f} MiB, after {RESUMED}: {memory[1]:.1f} MiB"
            )
            took = asyncio.run(resume(port, RESUMED, folder / "long"))
            print(f"  resume of {RESUMED} done items: first new item back after {took:.2f} s")
    finally:
        if server.stdin is not None:
            server.stdin.close()
        server.wait()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
