"""What the streaming decoder costs, beside whole-body parsing, both in one run.

Run: ``python benchmarks/decoder.py``. Each line is a ratio and the bound it should keep.
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from functools import partial

import pybase64

from imagen_async.wire.decoder import AnswerDecoder, AnswerError

try:
    loads = importlib.import_module("orjson").loads
    WHOLE = "orjson + pybase64"
except ImportError:
    loads = json.loads
    WHOLE = "json + pybase64"

IMAGES = 4
IMAGE = 2 * 1024 * 1024
KIB = 1024


class NullSink:
    def write(self, data: bytes | memoryview, /) -> None:
        pass

    def close(self) -> None:
        pass

    def discard(self) -> None:
        pass


class FileSink:
    def __init__(self, folder: str) -> None:
        self.fd, self.path = tempfile.mkstemp(dir=folder)

    def write(self, data: bytes | memoryview, /) -> None:
        os.write(self.fd, data)

    def close(self) -> None:
        os.close(self.fd)
        os.unlink(self.path)

    discard = close


def measure(work: Callable[[], object], rounds: int) -> float:
    """Return the median CPU time of a call in milliseconds."""
    times = []
    for _ in range(rounds):
        start = time.process_time_ns()
        work()
        times.append(time.process_time_ns() - start)
    return statistics.median(times) / 1e6


def in_turn(ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[float, float, float]:
    """Return both sides' median milliseconds, and the median ratio of neighbouring rounds."""
    pairs = [(measure(ours, 1), measure(theirs, 1)) for _ in range(60)]
    ratio = statistics.median(mine / other for mine, other in pairs)
    return *(statistics.median(times) for times in zip(*pairs, strict=True)), ratio


def small(work: Callable[[], object]) -> float:
    """Return the median CPU time of a quick call in microseconds."""

    def many() -> None:
        for _ in range(2000):
            work()

    return measure(many, 15) / 2000 * 1000


def cut(body: bytes, size: int) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


def stream(chunks: list[bytes], sink: Callable[[], NullSink | FileSink]) -> object:
    decoder = AnswerDecoder(sink)
    for chunk in chunks:
        decoder.feed(chunk)
    return decoder.finish()


def limit(chunks: list[bytes]) -> None:
    """Do the least that must be done: strict base64 and one copy."""
    for chunk in chunks:
        bytearray(pybase64.b64decode(chunk, None, True))


def whole(chunks: list[bytes], take: Callable[[bytes], object]) -> None:
    for item in loads(b"".join(chunks))["data"]:
        take(pybase64.b64decode(item["b64_json"], None, True))


def to_file(folder: str, data: bytes) -> None:
    sink = FileSink(folder)
    sink.write(data)
    sink.close()


def show(name: str, ratio: float, bound: float, unit: str = "x") -> None:
    mark = "ok" if ratio <= bound else "OVER"
    print(f"{name:58} {ratio:8.2f} {unit:3} <= {bound:<6} {mark}")


def images() -> None:
    encoded = [base64.b64encode(os.urandom(IMAGE)).decode() for _ in range(IMAGES)]
    body = json.dumps({"created": 1, "data": [{"b64_json": text} for text in encoded]}).encode()
    orjson_time = measure(lambda: whole([body], len), 15)
    print(f"{IMAGES} x {IMAGE // KIB} KiB, {WHOLE} on the whole body: {orjson_time:.2f} ms")
    for size, to_limit, to_whole in (
        (64 * KIB, 1.5, 0.2),
        (16 * KIB, 2.2, 9.0),
        (len(body), 9.0, 0.2),
        (1460, 9.0, 9.0),
    ):
        chunks = cut(body, size)
        pure = [piece for text in encoded for piece in cut(text.encode(), min(size, 64 * KIB))]
        ours, least, ratio = in_turn(partial(stream, chunks, NullSink), partial(limit, pure))
        print(f"chunks of {size} bytes: {ours:.2f} ms, the limit {least:.2f} ms")
        show("  beside the limit", ratio, to_limit)
        show(f"  beside {WHOLE}", ours / orjson_time, to_whole)
    folder = "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()
    with tempfile.TemporaryDirectory(dir=folder) as place:
        chunks = cut(body, 64 * KIB)
        ours = measure(lambda: stream(chunks, lambda: FileSink(place)), 15)
        theirs = measure(lambda: whole(chunks, lambda data: to_file(place, data)), 15)
        print(f"64 KiB chunks into files: {ours:.2f} ms, {WHOLE} {theirs:.2f} ms")
        show("  into files, beside the whole body", ours / theirs, 0.5)
    longest = max(feed_times(cut(body, 64 * KIB)))
    show("one 64 KiB feed of image text, the longest", longest, 1.0, "ms")
    chunks = cut(body, 64 * KIB)
    tracemalloc.start()
    base = tracemalloc.get_traced_memory()[0]
    stream(chunks, NullSink)
    peak = tracemalloc.get_traced_memory()[1] - base
    tracemalloc.stop()
    show("peak memory beside the sink", peak / KIB, 512, "KiB")


def feed_times(chunks: list[bytes]) -> list[float]:
    decoder = AnswerDecoder(NullSink)
    times = []
    for chunk in chunks:
        start = time.process_time_ns()
        decoder.feed(chunk)
        times.append((time.process_time_ns() - start) / 1e6)
    decoder.salvage()
    return times


def links() -> None:
    url = "https://images.example.com/" + "a" * 380 + ".png?signature=" + "b" * 40
    body = json.dumps({"created": 1, "data": [{"url": url}]}).encode()
    base = small(lambda: json.loads(body))
    print(f"a url answer of {len(body)} bytes: json.loads {base:.2f} us")
    for count, bound in ((1, 4.0), (6, 9.0)):
        chunks = cut(body, -(-len(body) // count))
        ours = small(partial(stream, chunks, NullSink)) - base
        show(f"  more than json.loads, in {count}", ours, bound, "us")


HOSTILE = {
    "quotes": b'"' * 2**20,
    "keys": b'{"data":[{' + b'"b64_json":"A",' * (2**20 // 15),
    "candidates": b'{"data":[' + (b'{"b64_json":"' + b"A" * 4200 + b'"},') * 500,
    "false candidates": b'{"x":[' + (b'{"b64_json":"' + b"A" * 4200 + b'"},') * 244,
    "just too short": b'{"x":[' + (b'{"b64_json":"' + b"A" * 4090 + b'"},') * 250,
    "data urls": b'["' + b'data:","' * (2**20 // 8),
    "objects, then candidates": b'{"x":['
    + b"{}," * 200_000
    + (b'{"b64_json":"' + b"A" * 4200 + b'"},') * 90,
    "nesting": b"[" * 2**20,
    "blanks": b" " * 2**20,
    "half escapes": b'{"data":[{"b64_json":"' + b"A" * 4200 + b"\\u004" * (2**20 // 6),
    "escapes": b'{"data":[{"b64_json":"' + b"A" * 4200 + b"\\u0041" * (2**20 // 6),
    "escaped quotes": b'{"data":[{"b64_json":"' + b"A" * 4200 + b'\\"' * 2**19,
    "backslashes": b'{"data":[{"b64_json":"' + b"A" * 4200 + b"\\" * 2**20,
    "spoiled": b'{"data":[{"b64_json":"' + b"?" * 2**20,
    "blanks in base64": b'{"data":[{"b64_json":"' + b"A " * 2**19,
    "lines of events": b"data:\n\n" * (2**20 // 7),
    "comments": b":\n" * 2**19,
    "events": b"data:{}\n\n" * (2**20 // 9),
}


def hostile() -> None:
    for name, body in HOSTILE.items():
        for size in (64 * KIB, len(body)):

            def work(body: bytes = body, size: int = size) -> None:
                decoder = AnswerDecoder(NullSink)
                try:
                    for chunk in cut(body, size):
                        decoder.feed(chunk)
                    decoder.finish()
                except AnswerError:
                    decoder.salvage()

            show(f"hostile: {name}, chunks of {size}", measure(work, 3), 100, "ms")


if __name__ == "__main__":
    images()
    links()
    hostile()
