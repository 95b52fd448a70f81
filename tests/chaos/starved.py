"""A client in a process of its own, whose machine fails it once the answers are on their way.

Run as ``python -m tests.chaos.starved URL FOLDER TROUBLE FLOW``. It orders, arms the trouble when
it is told so, and says ``armed``; the server then answers. At the end it prints as JSON what it has
in its hands.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import struct
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imagen_async import AsyncImagen, ImagenError, Limits
from imagen_async.storage import disk

CALLS = 8
MOMENT = 0.4
"""Seconds after which a trouble that passes is over."""


def picture(prompt: str) -> bytes:
    """Return a whole PNG, a different one for each prompt; every second one is large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", 3, 2, 8, 0, 0, 0, 0)
    filler = prompt.encode().ljust(300_000 if prompt[-1] in "02468" else 10_000, b".")
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"fiLl", filler)
        + chunk(b"IDAT", zlib.compress(bytes(8)))
        + chunk(b"IEND", b"")
    )


class NoImports:
    """Refuses every module that is not here yet."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        raise ImportError(f"no import any more: {name}")


def no_descriptor() -> Callable[[], None]:
    """Let no descriptor be opened; those that are open stay."""
    disk.PATIENCE = 1.0
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, before)


def no_thread() -> Callable[[], None]:
    """Let no thread start."""
    start = threading.Thread.start

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threading.Thread.start = refuse  # type: ignore[method-assign]
    return lambda: setattr(threading.Thread, "start", start)


def no_room() -> Callable[[], None]:
    """Let no file grow beyond a few bytes, but for those that SQLite writes."""
    write = os.write

    def full(descriptor: int, data: Any) -> int:
        at = os.lseek(descriptor, 0, os.SEEK_CUR) if descriptor > 2 else 0
        if at + len(data) > 3000:
            if at < 3000:
                return write(descriptor, data[: 3000 - at])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    os.write = full
    return lambda: setattr(os, "write", write)


def no_import() -> Callable[[], None]:
    """Let no module be imported."""
    hook: Any = NoImports()
    sys.meta_path.insert(0, hook)
    return lambda: sys.meta_path.remove(hook)


def no_memory() -> Callable[[], None]:
    """Let a step of the way to the disk run out of memory."""
    write_all = disk.write_all

    def starve(*_: object) -> int:
        raise MemoryError

    disk.write_all = starve  # type: ignore[assignment]
    return lambda: setattr(disk, "write_all", write_all)


def nothing() -> Callable[[], None]:
    """Change nothing: the file system that the folder is on does."""
    return lambda: None


TROUBLES: dict[str, Callable[[], Callable[[], None]]] = {
    "descriptors": no_descriptor,
    "threads": no_thread,
    "room": no_room,
    "imports": no_import,
    "memory": no_memory,
    "none": nothing,
}


async def error_to_row() -> None:
    """Wait for a line from the test."""
    loop, here = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(0, here.set)
    await here.wait()
    loop.remove_reader(0)


class Starved:
    """One flow under one trouble."""

    def __init__(self, url: str, folder: Path, trouble: str, flow: str) -> None:
        self.url = url
        self.folder = folder
        self.trouble, _, self.passes = trouble.partition(":")
        self.flow, _, self.form = flow.partition(":")
        self.prompts = [f"{flow} {number}" for number in range(CALLS)]
        self.hands: list[bytes] = []
        self.links: set[str] = set()
        self.foreign: list[str] = []
        self.errors: list[str] = []

    async def arm(self) -> None:
        await error_to_row()
        lift = TROUBLES[self.trouble]()
        if self.passes:
            asyncio.get_running_loop().call_later(MOMENT, lift)
        os.write(1, b"armed\n")

    def take(self, images: Any) -> None:
        for image in images:
            if image.data is not None:
                self.hands.append(image.data)
            if image.url is not None:
                self.links.add(image.url)

    async def one(self, imagen: Any, prompt: str) -> None:
        try:
            if self.flow == "generate_to":
                made = await imagen.generate_to(self.folder, prompt)
            else:
                made = await imagen.generate(prompt)
            if self.flow == "save":
                await imagen.save(made.images[0], self.folder / prompt.replace(":", "-"))
            else:
                self.take(made.images)
        except ImagenError as error:
            self.take(error.images)
            self.errors.append(f"{type(error).__name__} {error.charge}")
        except Exception as error:  # noqa: BLE001 - what is counted
            self.foreign.append(repr(error))

    async def batch(self, imagen: Any) -> str | None:
        try:
            async with imagen.batch(self.prompts, out=self.folder / "run") as run:
                async for outcome in run:
                    if outcome.error is not None:
                        self.take(outcome.error.images)
                        self.errors.append(f"{type(outcome.error).__name__} {outcome.error.charge}")
        except Exception as error:  # noqa: BLE001 - what is counted
            self.foreign.append(repr(error))
            return None
        stopped: str | None = run.report.stopped_by
        return stopped

    async def run(self) -> dict[str, Any]:
        stopped = None
        async with AsyncImagen(
            base_url=self.url, api_key="k", allow_private=True, limits=Limits(concurrency=CALLS)
        ) as imagen:
            arming = asyncio.create_task(self.arm())
            if self.flow == "batch":
                stopped = await self.batch(imagen)
            else:
                await asyncio.gather(*(self.one(imagen, prompt) for prompt in self.prompts))
            await arming
        return {
            "hands": [zlib.crc32(data) for data in self.hands],
            "links": sorted(self.links),
            "foreign": self.foreign,
            "errors": self.errors,
            "stopped": stopped,
        }


if __name__ == "__main__":
    _, url, folder, trouble, flow = sys.argv
    report = asyncio.run(Starved(url, Path(folder), trouble, flow).run())
    os.write(1, json.dumps(report).encode() + b"\n")
