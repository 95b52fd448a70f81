"""The decoder against a naive oracle: json.loads of the whole body and strict base64."""

from __future__ import annotations

import base64
import itertools
import json
import random
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagen_async.wire.base64_stream import ImageString
from imagen_async.wire.decoder import AnswerDecoder, AnswerError, AnswerLimits, Embedded

pytestmark = pytest.mark.usefixtures("gather")

NO_LIMITS = AnswerLimits()
CUTS = (1, 7, 1460, 16_384, 10**9)


class MemorySink:
    def __init__(self) -> None:
        self.data = bytearray()
        self.state = "open"

    def write(self, data: bytes | memoryview, /) -> None:
        assert self.state == "open", f"written after {self.state}"
        self.data += data

    def close(self) -> None:
        assert self.state == "open", f"closed after {self.state}"
        self.state = "closed"

    def discard(self) -> None:
        assert self.state != "discarded"
        self.state = "discarded"


class Run:
    """One decoder, its sinks and what it gave."""

    def __init__(self, limits: AnswerLimits = NO_LIMITS) -> None:
        self.sinks: list[MemorySink] = []
        self.decoder = AnswerDecoder(self.open, limits)

    def open(self) -> MemorySink:
        self.sinks.append(MemorySink())
        return self.sinks[-1]

    def feed(self, body: bytes, size: int) -> None:
        for start in range(0, len(body), size):
            self.decoder.feed(body[start : start + size])

    def decode(self, body: bytes) -> object:
        self.decoder.feed(body)
        return self.decoder.finish()

    def result(self, body: bytes, size: int = 10**9) -> Any:
        """Return the plain document, or the error's kind."""
        try:
            self.feed(body, size)
            return plain(self.decoder.finish())
        except AnswerError:
            return AnswerError

    @property
    def states(self) -> list[str]:
        return [sink.state for sink in self.sinks]


def plain(value: Any) -> Any:
    if isinstance(value, Embedded):
        return error_to_row(value)
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return value


def error_to_row(image: Embedded) -> tuple[str, object]:
    if image.problem:
        assert image.sink is None
        return ("spoiled", None)
    assert isinstance(image.sink, MemorySink)
    assert image.sink.state == "closed"
    return ("image", bytes(image.sink.data))


def oracle(body: bytes) -> Any:
    try:
        document = json.loads(body.decode("utf-8-sig", "surrogatepass"))
    except (ValueError, RecursionError):
        return AnswerError
    return decoded(document, None)


def decoded(value: Any, name: str | None) -> Any:
    """Return a document with the images decoded that their names or first letters tell."""
    if isinstance(value, dict):
        return {name: decoded(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [decoded(inner, None) for inner in value]
    if not isinstance(value, str) or not value:
        return value
    is_data, head = value[:5].lower() == "data:", PREFIX.match(value)
    named = name == "b64_json" or (is_data and name == "url")
    begun = value.startswith("iVBORw0KGgo") and (len(value) >= 4096 or LETTERS.fullmatch(value))
    if not named and not (len(value) >= 64 and (head or begun)):
        return value
    return decode_text(value[head.end() :] if head else "?" if is_data else value)


LETTERS = re.compile(r"[A-Za-z0-9+/=_\s-]*")
PREFIX = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)


STRICT = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


def decode_text(text: str) -> tuple[str, object]:
    letters = text.translate(str.maketrans("-_", "+/", " \t\r\n"))
    letters += "=" * (-len(letters) % 4)
    if not letters or not STRICT.fullmatch(letters):  # the standard decoder takes QUJD====
        return ("spoiled", None)
    return ("image", base64.b64decode(letters))


def same(left: Any, right: Any) -> bool:
    return repr(left) == repr(right)  # NaN is not itself


def picture(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def encoded(size: int, seed: int = 1) -> str:
    return base64.b64encode(picture(size, seed)).decode()


def answer(*sizes: int, **extra: object) -> dict[str, Any]:
    items = [{"b64_json": encoded(size, seed)} for seed, size in enumerate(sizes)]
    return {"created": 1, "data": items, **extra}


TEXTS = st.builds(encoded, st.sampled_from([0, 1, 2, 3, 100, 3071, 3072, 3073, 9000, 60_000])) | (
    st.sampled_from(
        ["?", "A", "AB", "ABC", "QQ==", "QQ=", "Q=Q", "QUJD\n", "data:", "data:,x", "é"]
    )
)
IMAGE_TEXTS = st.builds(
    lambda prefix, text, end: prefix + text + end,
    st.sampled_from(
        [
            "",
            "iVBORw0KGgoB",
            "data:image/png;base64,",
            "DATA:image/jpeg;a=b;base64,",
            "data:image/png,",
        ]
    ),
    TEXTS,
    st.sampled_from(["", "", "=", "?", " \r\n", '"', "\\", "é", "\ud800"]),
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
ITEMS = st.dictionaries(
    st.sampled_from(["b64_json", "url", "revised_prompt", "x", 'y"', "z\\"]), IMAGE_TEXTS | SCALARS
)
VALUES = st.recursive(SCALARS | ITEMS, lambda inner: st.lists(inner, max_size=3), max_leaves=4)
DOCUMENTS = st.dictionaries(
    st.sampled_from(["data", "images", "created", "usage", "b64_json"]),
    st.lists(ITEMS | VALUES, max_size=4) | VALUES | IMAGE_TEXTS,
)
SPELLINGS: tuple[Callable[[str], str], ...] = (
    lambda text: text,
    lambda text: text.replace("/", "\\/"),
    lambda text: text.replace("A", "\\u0041"),
    lambda text: text.replace("b64_json", "b64\\u005fjson"),
    lambda text: text.replace('": ', '"\n\t :\r\n '),
    lambda text: "\ufeff" + text + "\n",
    lambda text: "  \r\n" + text,
    lambda text: text.replace("data", "dat\\u0061"),
)


@settings(max_examples=150, deadline=None)
@given(DOCUMENTS, st.sampled_from(SPELLINGS), st.booleans(), st.lists(st.integers(0, 2**20)))
def test_any_document_cut_anywhere_equals_the_oracle(
    document: Any, spell: Callable[[str], str], ascii_only: bool, places: list[int]
) -> None:
    """A document cut at any places gives what json.loads and strict base64 give."""
    text = spell(json.dumps(document, ensure_ascii=ascii_only))
    body = text.encode("utf-8", "surrogatepass")
    run = Run()
    edges = sorted({0, len(body), *(place % (len(body) + 1) for place in places)})
    for start, end in itertools.pairwise(edges):
        run.decoder.feed(body[start:end])
    assert same(plain(run.decoder.finish()), oracle(body))
    assert "open" not in run.states
    assert run.decoder.strays == []


# ruff: noqa: E501, RUF001
VALUES_OF_JSON = [
    "", " ", "null", "true", "0", "-0", "-", "01", "1e5", "1e999", "1.", ".5", "+1", "NaN", "Infinity",
    "-Infinity", "0x1", '""', '"a"', "'a'", '"\\u0041"', '"\\u00"', '"\\x"', '"\n"', '"\\ud800"', '"\\', '"',
    "[]", "[1,]", "[,1]", "[1", "]", "{}", '{"a":1}', '{"a":1,}', "{a:1}", '{"a"}', '{"a":}', '{"a":1',
    '{"a":1,"a":2}', "[[[[]]]]", '"é"', '"\x00"', "nul", "[1]x", '{"b64_json":"QUJD"}', "1,2", "/**/1", "١",
    '{"url":"data:image/png;base64,QUJD"}', '"\\"b64_json\\":\\""', "9" * 5000,
]  # fmt: skip
LONG_TEXT = encoded(5000)
PLACES = (
    "%s", '{"data":%s}', '{"data":[%s]}', '{"data":[{"b64_json":%s}]}', '{"data":[{"url":%s}]}',
    '{"data":[{"b64_json":"L"},%s]}', '{"data":[{"x":%s,"b64_json":"L"}]}', '{"x":%s,"data":[{"b64_json":"L"}]}',
    '{"data":[{"b64_json":"L","x":%s}],"created":1}', '{"images":[%s,{"url":"data:image/png;base64,L"}]}',
)  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_odd_and_broken_json_in_every_place_equals_the_oracle(place: str) -> None:
    """Whatever stands in a place, the decoder accepts it exactly when json.loads does."""
    for value in VALUES_OF_JSON:
        body = place.replace("L", LONG_TEXT).replace("%s", value).encode("utf-8", "surrogatepass")
        expected = oracle(body)
        for size in CUTS[1:] if len(body) > 1000 else CUTS:
            run = Run()
            assert same(run.result(body, size), expected), (value, size)
            run.decoder.salvage()
            assert "open" not in run.states


def test_every_one_byte_change_of_a_tricky_sample_equals_the_oracle() -> None:
    """No single changed byte makes the decoder differ from the oracle."""
    text = encoded(3100)
    sample = (
        f'{{"x":"\\"b64_json\\":\\"","data":[{{"b64_json" : "{text}","u":"\\\\"}},'
        f'{{"url":"data:image\\/png;base64,{text}"}}],"data2":[{{"b64_json":"{text}"}}]}}'
    ).encode()
    dull = len(text) - 40
    starts = [sample.find(text.encode(), at) for at in (0, 4300, 8600)]
    for place in range(len(sample)):
        if any(start + 20 <= place < start + dull for start in starts) and place % 397:
            continue
        for byte in b'"\\?=':
            body = sample[:place] + bytes([byte]) + sample[place + 1 :]
            run = Run()
            expected = oracle(body)
            got = run.result(body, 1000)
            if same(got, expected):
                continue
            assert expected is AnswerError or two_documents(body), (place, byte)


def two_documents(body: bytes) -> bool:
    try:
        json.loads(body)
    except ValueError as error:
        return "Extra data" in str(error)
    return False


def test_every_long_value_is_diverted_at_any_cut() -> None:
    """The sink of a long value has bytes before the body ends, wherever the body is cut."""
    body = json.dumps(answer(120_000, 120_000)).encode()
    for first in (*range(1, 60), 150_000, 160_000, len(body) - 120_000):
        run = Run()
        run.decoder.feed(body[:first])
        run.decoder.feed(body[first : len(body) - 20_000])
        assert len(run.sinks) == 2, first
        run.decoder.feed(body[len(body) - 20_000 :])
        assert same(plain(run.decoder.finish()), oracle(body))


@pytest.mark.parametrize(
    "shape",
    [
        '{"data":[{"b64_json":"%s"}]}',
        '{"data":{"b64_json":"%s"}}',
        '{"images":[{"url":"data:image/png;base64,%s"}]}',
        '{"data":[{"url":"dAtA:image\\/png;base64,%s"}]}',
        'data: {"b64_json":"%s"}\n\n',
    ],
)
def test_memory_stays_flat_in_every_shape(shape: str) -> None:
    """An image far larger than the text's limit passes, so it never stood in the text."""
    body = (shape % encoded(300_000)).encode()
    run = Run(AnswerLimits(max_text_bytes=5000))
    run.result(body, 65_536)
    assert [bytes(sink.data) for sink in run.sinks] == [picture(300_000)]
    assert run.states == ["closed"]


@pytest.mark.parametrize("size", [300, 60_000])
@pytest.mark.parametrize("head", ["", "data:image/png;base64,"])
@pytest.mark.parametrize("first", [b"\x89PNG\r\n\x1a\n\0", b"\xff\xd8\xff", b"RIFF1234WEBP"])
@pytest.mark.parametrize(
    "shape",
    [
        '{"images":["%s"]}',
        '{"output":{"image":"%s"},"data":[]}',
        '{"candidates":[{"parts":[{"inlineData":{"data":"%s"}}]}]}',
        '["%s"]',
        '{"status":"ok"}\n{"images":["%s"]}',
        'callback({"data":["%s"]});',
    ],
)
def test_an_image_is_known_by_its_first_letters(
    shape: str, first: bytes, head: str, size: int
) -> None:
    """Wherever a gateway puts an image, and whatever it calls it, its bytes go to a sink."""
    data = first + picture(size)
    text = head + base64.b64encode(data).decode().replace("/", "\\/")
    for cut in CUTS[1:]:
        run = Run(AnswerLimits(max_text_bytes=6000))
        run.feed((shape % text).encode(), cut)
        run.decoder.finish()
        assert [bytes(sink.data) for sink in run.sinks] == [data], cut
        assert run.states == ["closed"]


def test_a_text_that_quotes_an_image_is_none() -> None:
    """What stands behind an escaped quote, or only begins like an image, is text."""
    letters = "iVBORw0KGgo" + "A" * 6000
    document = {"a": f'say "{letters}" or "b64_json":"{letters}', "b": "/9j/x", "c": "/9j/ a word"}
    run = Run()
    assert run.result(json.dumps(document).encode(), 1000) == document
    assert run.sinks == []


def test_bad_base64_spoils_its_image_only() -> None:
    """After an error nothing is written to that sink, and the next image comes whole."""
    text = json.dumps(answer(90_000, 90_000, 90_000))
    middle = encoded(90_000, 1)
    for place in (0, 4095, 70_000, len(middle) - 3):
        for junk in ("?", "=", "\\u00e9", "\\\\"):
            spoiled = middle[:place] + junk + middle[place + 1 :]
            body = text.replace(middle, spoiled).encode()
            for size in CUTS[2:]:
                run = Run()
                items = run.result(body, size)["data"]
                kinds = [item["b64_json"][0] for item in items]
                assert kinds == ["image", "image" if spoiled == middle else "spoiled", "image"]
                assert "open" not in run.states


def test_an_image_over_the_limit_is_dropped_and_named() -> None:
    """A too large image is that image's problem; one of just the limit passes."""
    run = Run(AnswerLimits(max_image_bytes=50_000))
    run.feed(json.dumps(answer(50_000, 50_001, 10)).encode(), 16_384)
    document: Any = run.decoder.finish()
    problems = [item["b64_json"].problem for item in document["data"]]
    assert problems == [None, "larger than 50000 bytes", None]
    assert run.states == ["closed", "discarded", "closed"]


@pytest.mark.parametrize("size", [10, 6000])
def test_images_over_the_number_are_dropped_and_named(size: int) -> None:
    """More images than the limit open no sink and say why, short or long."""
    run = Run(AnswerLimits(max_images=2))
    run.feed(json.dumps(answer(size, size, size)).encode(), 10**9)
    document: Any = run.decoder.finish()
    problems = [item["b64_json"].problem for item in document["data"]]
    assert problems == [None, None, "over the number of images"]
    assert len(run.sinks) == 2


@pytest.mark.parametrize("size", CUTS[1:])
def test_the_text_limit_is_exact_at_any_cut(size: int) -> None:
    """A text of just the limit passes and one byte more does not, however it is cut."""
    body = json.dumps(answer(6000, pad="x" * 90_000)).encode()
    exact = len(body) - len(encoded(6000))
    assert Run(AnswerLimits(max_text_bytes=exact)).result(body, size) is not AnswerError
    assert Run(AnswerLimits(max_text_bytes=exact - 1)).result(body, size) is AnswerError


def test_a_large_text_is_refused_while_it_streams() -> None:
    """A text without end does not grow in memory until the body ends."""
    run = Run(AnswerLimits(max_text_bytes=100_000))
    with pytest.raises(AnswerError, match="larger than 100000 bytes"):
        run.feed(b"<html>" * 40_000, 16_384)
    with pytest.raises(AnswerError):
        run.decoder.feed(b"more")
    with pytest.raises(AnswerError):
        run.decoder.finish()
    assert run.decoder.salvage() == []


@pytest.mark.parametrize("size", [1000, 65_536])
def test_blanks_before_the_answer_are_bounded(size: int) -> None:
    """A gateway may send blanks while it draws, as many as a text may have bytes and no more."""
    limits = AnswerLimits(max_text_bytes=200_000)
    assert Run(limits).result(b" " * 200_000 + b"{}", size) == {}
    run = Run(limits)
    with pytest.raises(AnswerError, match="more than 200000 blanks"):
        run.feed(b" " * 300_000, size)
    assert run.decoder.salvage() == []


def test_an_error_carries_an_excerpt_without_images() -> None:
    """The excerpt has the text's start, 64 KiB of it, and no base64 of long images."""
    run = Run()
    body = json.dumps(answer(60_000, pad="p" * 100_000))[:-1].encode()
    run.feed(body, 16_384)
    with pytest.raises(AnswerError, match="not JSON") as caught:
        run.decoder.finish()
    assert len(caught.value.text) == 65_536
    assert caught.value.text.startswith(b'{"created": 1, "data": [{"b64_json": ""}], "pad": "ppp')
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b"<html>", "not JSON"),
        (b"[" * 200_000, "no JSON that Python reads"),
        (b'{"a":' + b"9" * 5000 + b"}", "no JSON that Python reads"),
        ('{"a":"é"}'.encode("latin-1"), "not UTF-8"),
        (b'{"data":[{"b64_json":"' + encoded(9000).encode(), "cut inside an image"),
        (b'{"data":[{"b64_json":"' + encoded(9000).encode() + b'\\x"}]}', "not JSON"),
        (b"[1] [2]", "not JSON"),
    ],
)
def test_what_is_no_answer_is_one_kind_of_error(body: bytes, reason: str) -> None:
    """Whatever a body is, nothing but AnswerError leaves the decoder."""
    run = Run()
    with pytest.raises(AnswerError, match=reason):
        run.decode(body)
    run.decoder.salvage()
    assert "open" not in run.states


def test_of_two_documents_the_first_object_counts() -> None:
    """A gateway that writes twice is read once; the images of its second answer are strays."""
    first, second = json.dumps(answer(9000)).encode(), b'{"error":{"code":"rate"}}'
    assert Run().result(first + b"\n" + second) == oracle(first)
    assert Run().result(b' {"a":1}{"b":') == {"a": 1}


def test_images_that_no_item_refers_to_are_strays() -> None:
    """A duplicate key hides an image from json.loads; it is told all the same."""
    text = encoded(9000)
    body = f'{{"data":[{{"b64_json":"{text}","b64_json":"{encoded(8000)}"}}]}}'.encode()
    run = Run()
    assert same(run.result(body, 1460), oracle(body))
    assert [error_to_row(image) for image in run.decoder.strays] == [("image", picture(9000))]


@pytest.mark.parametrize("size", [50, 9000])
def test_a_cut_body_gives_its_whole_images(size: int) -> None:
    """Wherever the body breaks off, the images before the cut are there, and no half one."""
    body = json.dumps(answer(size, size, size)).encode()
    ends = [body.index(encoded(size, seed).encode()) + len(encoded(size)) for seed in range(3)]
    for cut in (*range(0, len(body), 97), *ends, *(end + 1 for end in ends)):
        run = Run()
        run.feed(body[:cut], 1460)
        if cut % 2:
            assert run.result(b"") is AnswerError
        expected = [("image", picture(size, seed)) for seed in range(3) if ends[seed] < cut]
        assert [error_to_row(image) for image in run.decoder.salvage()] == expected, cut
        assert "open" not in run.states
        assert run.decoder.salvage() == []


def test_salvage_is_bounded_on_hostile_text() -> None:
    """No more images are salvaged than an answer may hold, and of endless brackets none."""
    run = Run(AnswerLimits(max_images=3))
    assert run.result(b'{"data":[' + b'{"b64_json":"QUJD"},' * 2000) is AnswerError
    assert len(run.decoder.salvage()) == 3
    for text in (b"[", b"[]", b'{"a":', b'"', b"{}"):
        run = Run()
        assert run.result(b"[" + text * 200_000) is AnswerError
        assert run.decoder.salvage() == []


def test_a_failing_sink_is_not_taken_for_broken_json() -> None:
    """What a sink raises passes through, and its half image is discarded at the end."""

    class Full(MemorySink):
        def write(self, data: bytes | memoryview, /) -> None:
            raise ValueError("disk full")

    sinks: list[Full] = []

    def open_sink() -> Full:
        sinks.append(Full())
        return sinks[-1]

    decoder = AnswerDecoder(open_sink)
    with pytest.raises(ValueError, match="disk full"):
        decoder.feed(json.dumps(answer(60_000)).encode())
    assert decoder.salvage() == []
    assert [sink.state for sink in sinks] == ["discarded"]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_end_in_a_document_or_an_answer_error(body: bytes) -> None:
    """No bytes make the decoder raise anything else."""
    run = Run()
    run.result(body, 7)
    run.decoder.salvage()


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(["QUJD", "/", "\\/", "\\n", "\\u0041", "é", "\\\\", '\\"', "=", "-_", " "])
    ),
    st.integers(1, 9),
)
def test_a_string_fed_in_pieces_equals_the_whole(parts: list[str], size: int) -> None:
    """The string layer unescapes and decodes the same at any cut, half characters included."""
    inside = "".join(["QUJD" * 128, *parts]).encode()
    string = ImageString(MemorySink, 10**6)
    assert string.feed(inside[:512]) is None
    for start in range(512, len(inside), size):
        assert string.feed(inside[start : start + size]) is None
    assert string.feed(b'"rest') == b'"rest'
    expected = decode_text(json.loads(b'"' + inside + b'"'))
    assert error_to_row(string.finish()) == expected


@pytest.mark.parametrize(
    "pieces", [("QQ", "==QUJDQUJD"), ("QQ==", "QUJD"), ("QUJDQQ==", "A"), ("QUJDQQ==Q",)]
)
def test_letters_after_padding_are_bad_base64(pieces: tuple[str, ...]) -> None:
    """Padding ends a value even where a cut hides that it stands inside."""
    run = Run()
    string = ImageString(run.open, 10**6)
    assert string.feed(b"QUJD" * 128) is None
    for piece in pieces:
        assert string.feed(piece.encode()) is None
    assert string.feed(b'"') == b'"'
    assert string.finish().problem == "bad base64"
    assert run.states == ["discarded"]
