"""What is kept of an answer that breaks off: whole images and whole links, and nothing else."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imagen_async.wire.decoder import AnswerDecoder, AnswerError, AnswerLimits, Embedded

pytestmark = pytest.mark.usefixtures("gather")

PICTURES = {"QUJD": b"ABC", "QUJE" * 2000: b"ABD" * 2000}
HOSTILE = 'a sign that says "}],"data":[{"url":"https://evil.example/x.png"},'
LINK = "https://cdn.example/a.png?sig=%2Fa%2B&x=1"


class MemorySink:
    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes | memoryview, /) -> None:
        self.data += data

    def close(self) -> None:
        pass

    def discard(self) -> None:
        self.data.clear()


def salvaged(body: bytes, size: int = 10**9, limits: AnswerLimits | None = None) -> list[object]:
    """Return the links, and the bytes of the images, of a body that ends here."""
    decoder = AnswerDecoder(MemorySink, limits or AnswerLimits())
    try:
        for start in range(0, len(body), size):
            decoder.feed(body[start : start + size])
    except AnswerError:
        pass
    return [shown(found) for found in decoder.salvage()]


def shown(found: Embedded | str) -> object:
    if isinstance(found, str):
        return found
    assert isinstance(found.sink, MemorySink)
    return bytes(found.sink.data)


links = st.sampled_from(
    [LINK, "http://127.0.0.1:8000/é/\u4e2d.png", 'https://x/"\\1', "HTTPS://x/2"]
)
values = st.fixed_dictionaries(
    {},
    optional={
        "url": links | st.sampled_from([None, "", "data:image/png;base64,QUJD", "/v1/files/1", 5]),
        "b64_json": st.sampled_from([None, "", "?", *PICTURES]),
        "revised_prompt": st.sampled_from(["p", HOSTILE, 'ends in \\"url":"https://x/3"']),
        "meta": st.sampled_from([{"url": "https://nested.example/1"}, [{"text": "QUJD"}]]),
    },
)
items = st.lists(
    values.flatmap(lambda item: st.permutations(list(item.items()))).map(dict), max_size=4
)


def value_of(name: str, value: object) -> object:
    """Return what a whole string of an item is worth."""
    if not isinstance(value, str):
        return None
    value = value.removeprefix("data:image/png;base64,")
    if value in PICTURES:
        return PICTURES[value]
    return value if name == "url" and value[:4].lower() == "http" else None


def written(head: str, entries: list[dict[str, object]], escaped: bool) -> tuple[str, list[list]]:
    """Write a list of items; tell of each where its strings end and what they are worth."""
    text, ends = head, []
    for item in entries:
        ends.append([])
        text += "," * (len(ends) > 1) + "{"
        for place, (name, value) in enumerate(item.items()):
            string = json.dumps(value, ensure_ascii=escaped)
            text += (
                ", " * (place > 0)
                + f'"{name}" : '
                + (string.replace("/", "\\/") if escaped else string)
            )
            if (worth := value_of(name, value)) is not None:
                ends[-1].append((len(text.encode()), worth))
        text += "}"
    return text + "]", ends


@settings(max_examples=300, deadline=None)
@given(items, items, st.booleans(), st.floats(0, 1), st.sampled_from([7, 1460, 10**9]))
@example([{"url": LINK, "b64_json": "QUJD"}], [], True, 0.999, 7)
def test_what_arrived_whole_is_kept_wherever_the_body_ends(
    first: list[dict[str, object]],
    second: list[dict[str, object]],
    escaped: bool,
    share: float,
    size: int,
) -> None:
    """Each item before the cut gives its images, else its link; prompts and others give nothing."""
    head = '{"created":1,"note":' + json.dumps(HOSTILE) + ',"x":[{"url":"https://no/1"}],"data":['
    text, ends = written(head, first, escaped)
    text, more = written(text + ',"images":[', second, escaped)
    cut = int(len(text.encode()) * share)
    expected: list[object] = []
    for item in (*ends, *more):
        whole = [worth for end, worth in item if end <= cut]
        images = [worth for worth in whole if isinstance(worth, bytes)]
        expected += images or whole
    assert salvaged(text.encode()[:cut], size) == expected


@settings(max_examples=100, deadline=None)
@given(st.text(), st.integers(0, 300))
def test_no_prompt_passes_for_a_link(prompt: str, cut: int) -> None:
    """Whatever a prompt says, JSON or not, no link comes of an answer that carries only it."""
    document = {"data": [{"revised_prompt": HOSTILE + prompt}], "prompt": HOSTILE + prompt}
    assert salvaged(json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")[:cut]) == []


@pytest.mark.parametrize(
    "url",
    ["/files/1.png", "ftp://x/1", "file:///etc/passwd", "https://", "https:///x", "javascript:1"],
)
def test_only_an_absolute_link_of_http_is_kept(url: str) -> None:
    """In a broken answer anything else may be half of something."""
    assert salvaged(json.dumps({"data": [{"url": url}]}).encode()[:-1]) == []


def test_an_answer_that_breaks_in_the_middle_gives_what_stands_before() -> None:
    """After the first byte that is not JSON nothing is proven any more."""
    body = b'{"data":[{"url":"https://x/1"},{"url":"https://x/2"}}},{"url":"https://x/3"}]}'
    assert salvaged(body) == ["https://x/1", "https://x/2"]


def test_the_text_of_a_link_is_unescaped_as_json_does() -> None:
    """Escapes in a link stand for what they stand for, and a broken one is none."""
    assert salvaged(rb'{"data":{"url":"https:\/\/x\/\u00e9?a=\u0026"') == ["https://x/é?a=&"]
    assert salvaged(rb'{"data":[{"url":"https://x/1"},{"url":"https://x/\q"}') == ["https://x/1"]


def test_links_are_counted_as_images_are() -> None:
    """No more links are gathered than an answer may hold images, however many it has."""
    body = b'{"data":[' + b'{"url":"https://x/1"},' * 500
    assert len(salvaged(body, limits=AnswerLimits(max_images=3))) == 3


def test_a_stream_of_events_gives_the_links_of_its_results() -> None:
    """Whole results before the cut count, and a broken one that is known to be a result."""
    whole = b'event: x.completed\ndata: {"url":"https://x/1"}\n\n'
    partial = b'event: x.partial_image\ndata: {"url":"https://x/2"}\n\n'
    broken = b'event: x.completed\ndata: {"url":"https://x/3","revised_prompt":"a'
    vague = b'data: {"url":"https://x/4","revised_prompt":"a'
    assert salvaged(whole + partial + broken) == ["https://x/1", "https://x/3"]
    assert salvaged(whole + vague) == ["https://x/1"]
    decoder = AnswerDecoder(MemorySink)
    decoder.feed(broken + b"\n\n" + whole)
    assert decoder.finish() == {"data": [{"url": "https://x/1"}]}
    assert decoder.strays == ["https://x/3"]


def test_a_broken_stream_gives_no_spoiled_image_and_no_flood_of_links() -> None:
    """What is spoiled is not salvaged, and of links no more than an answer may have images."""
    spoiled = b'event: x.completed\ndata: {"b64_json":"?"}}\n\n' * 4
    assert salvaged(spoiled) == []
    flood = b"".join(b'data: {"url":"https://x/%d"}\n\n' % number for number in range(500))
    assert len(salvaged(flood)) == AnswerLimits().max_images


def test_a_spoiled_image_is_no_stray() -> None:
    """Images that a later answer replaces count only if they are whole."""
    decoder = AnswerDecoder(MemorySink)
    decoder.feed(b'data: {"b64_json":"?"}\n\n' * 9 + b'data: {"b64_json":"QUJD"}\n\n')
    decoder.feed(b'data: {"data":[]}\n\n')
    assert decoder.finish() == {"data": []}
    assert [shown(stray) for stray in decoder.strays] == [b"ABC"]
