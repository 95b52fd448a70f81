"""Answers that come as a stream of server-sent events."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

import pytest

from imagen_async.wire.decoder import AnswerDecoder, AnswerError, AnswerLimits, Embedded

pytestmark = pytest.mark.usefixtures("gather")

NO_LIMITS = AnswerLimits()
CUTS = (1, 7, 1460, 65_536, 10**9)
DONE = "image_generation.completed"
PARTIAL = "image_generation.partial_image"


class MemorySink:
    def __init__(self) -> None:
        self.data = bytearray()
        self.state = "open"

    def write(self, data: bytes | memoryview, /) -> None:
        assert self.state == "open"
        self.data += data

    def close(self) -> None:
        assert self.state == "open"
        self.state = "closed"

    def discard(self) -> None:
        assert self.state != "discarded"
        self.state = "discarded"


def picture(seed: int, size: int = 60_000) -> bytes:
    return random.Random(seed).randbytes(size)


def encoded(seed: int, size: int = 60_000) -> str:
    return base64.b64encode(picture(seed, size)).decode()


def event(name: str | None, **fields: object) -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(fields)}\n\n".encode()


class Run:
    def __init__(self, body: bytes, size: int, limits: AnswerLimits = NO_LIMITS) -> None:
        self.sinks: list[MemorySink] = []
        self.decoder = AnswerDecoder(self.open, limits)
        for start in range(0, len(body), size):
            self.decoder.feed(body[start : start + size])

    def open(self) -> MemorySink:
        self.sinks.append(MemorySink())
        return self.sinks[-1]

    def answer(self) -> Any:
        return self.decoder.finish()


def data_of(image: object) -> bytes:
    assert isinstance(image, Embedded)
    assert isinstance(image.sink, MemorySink)
    assert image.sink.state == "closed"
    return bytes(image.sink.data)


@pytest.mark.parametrize("size", CUTS)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_the_completed_image_is_the_answer(size: int, end: bytes) -> None:
    """Partial images, comments and progress are dropped; what the result tells is kept."""
    body = b": hello\n\nid: 1\nretry: 5\n" + b"".join(
        (
            event("progress", percent=3),
            event(PARTIAL, b64_json=encoded(1)),
            event(None, type=PARTIAL, b64_json=encoded(2)),
            event(None, b64_json=encoded(3), partial_image_index=1),
            event(DONE, b64_json=encoded(4), created_at=7, usage={"total": 1}, type=DONE),
            b"data: [DONE]\n\ndata: {broken\n\n",
        )
    )
    run = Run(body.replace(b"\n", end), size)
    answer = run.answer()
    assert [data_of(item["b64_json"]) for item in answer.pop("data")] == [picture(4)]
    assert answer == {"created": 7, "usage": {"total": 1}}
    assert sorted(sink.state for sink in run.sinks) == ["closed", *["discarded"] * 3]
    assert run.decoder.strays == []


@pytest.mark.parametrize("size", CUTS)
def test_an_event_that_is_a_whole_answer_replaces_the_earlier_ones(size: int) -> None:
    """The last whole answer counts, and the images it replaces are strays."""
    first = event(None, created=1, data=[{"b64_json": encoded(1)}])
    last = event(None, created=2, data=[{"b64_json": encoded(2)}, {"url": "https://x/1"}])
    run = Run(first + last.rstrip(), size)
    answer = run.answer()
    assert answer["created"] == 2
    assert data_of(answer["data"][0]["b64_json"]) == picture(2)
    assert answer["data"][1] == {"url": "https://x/1"}
    assert [data_of(stray) for stray in run.decoder.strays] == [picture(1)]


def test_the_last_event_of_an_image_counts() -> None:
    """The same index or the same link is the same image; without either each is its own."""
    run = Run(
        event(DONE, b64_json=encoded(1), index=0)
        + event(DONE, b64_json=encoded(2), index=1)
        + event(DONE, b64_json=encoded(3), index=0)
        + event(DONE, url="https://x/1")
        + event(DONE, url="https://x/1", revised_prompt="p")
        + event(DONE, b64_json=encoded(4, 10)),
        1460,
    )
    items = run.answer()["data"]
    assert data_of(items[0]["b64_json"]) == picture(3)
    assert data_of(items[1]["b64_json"]) == picture(2)
    assert items[2] == {"url": "https://x/1", "revised_prompt": "p"}
    assert data_of(items[3]["b64_json"]) == picture(4, 10)
    assert [data_of(stray) for stray in run.decoder.strays] == [picture(1)]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (event("error", error={"code": "x"}), {"code": "x"}),
        (event("error", code="x"), {"code": "x"}),
        (event(None, type="error", message="m"), {"type": "error", "message": "m"}),
    ],
)
def test_an_error_event_is_the_answers_error(body: bytes, error: object) -> None:
    """An error in the stream stands where an error answer has it."""
    assert Run(body, 7).answer() == {"error": error, "data": []}


def test_a_broken_event_costs_only_itself() -> None:
    """Events around a broken one count; alone it is an AnswerError."""
    broken = b'data: {"b64_json":"QUJD\n\n'
    answer = Run(broken + event(DONE, b64_json="QUJE") + b"data: 5\n\n", 7).answer()
    assert [data_of(item["b64_json"]) for item in answer["data"]] == [b"ABD"]
    run = Run(broken, 7)
    with pytest.raises(AnswerError, match="not JSON"):
        run.decoder.finish()
    cut = f'data: {{"b64_json":"{encoded(1)}\n\n'.encode()
    run = Run(cut + event(DONE, b64_json=encoded(2)), 1460)
    assert [data_of(item["b64_json"]) for item in run.answer()["data"]] == [picture(2)]


def test_a_spoiled_image_says_so() -> None:
    """Bad base64 in an event is that image's problem, and its sink is discarded."""
    run = Run(event(DONE, b64_json=encoded(1) + "?"), 1460)
    assert run.answer()["data"] == [{"b64_json": Embedded(None, "bad base64")}]
    assert [sink.state for sink in run.sinks] == ["discarded"]


@pytest.mark.parametrize(
    ("head", "kept"),
    [
        (b'event: image_generation.completed\ndata: {"b64_json":"', True),
        (b'data: {"type":"image_generation.completed","b64_json":"', True),
        (b'data: {"data":[{"b64_json":"', True),
        (b'data: {"type":"image_generation.partial_image","b64_json":"', False),
        (b'data: {"b64_json":"', False),
    ],
)
def test_a_cut_stream_gives_the_images_of_its_results(head: bytes, kept: bool) -> None:
    """What was complete is kept; of the event that broke off only what is known to be a result."""
    body = event(DONE, b64_json=encoded(1)) + head + encoded(2).encode() + b'","x":"'
    run = Run(body, 1460)
    images = [data_of(image) for image in run.decoder.salvage()]
    assert images == ([picture(1), picture(2)] if kept else [picture(1)])
    assert "open" not in [sink.state for sink in run.sinks]
    run = Run(body[: len(body) - 2000], 1460)
    assert [data_of(image) for image in run.decoder.salvage()] == [picture(1)]
    assert "open" not in [sink.state for sink in run.sinks]


@pytest.mark.parametrize(
    "body",
    [b"data: {}\n\n" * 20_000, b'data: "' + b"x" * 200_000 + b'"\n\n'],
)
def test_the_text_of_all_events_is_bounded(body: bytes) -> None:
    """Neither many small events nor one large one may grow without end."""
    limits = AnswerLimits(max_text_bytes=100_000)
    with pytest.raises(AnswerError, match="larger than 100000 bytes"):
        Run(body, 16_384, limits).decoder.finish()


def test_the_number_of_images_is_bounded_over_all_events() -> None:
    """The limit of images holds for the stream, not for each event."""
    body = b"".join(event(DONE, b64_json=encoded(seed)) for seed in range(3))
    run = Run(body, 65_536, AnswerLimits(max_images=2))
    assert [item["b64_json"].problem for item in run.answer()["data"]] == [
        None,
        None,
        "over the number of images",
    ]
    assert len(run.sinks) == 2
