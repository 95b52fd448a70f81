"""What is thrown at each pure room that foreign bytes reach, and what must hold of it.

Each target takes any bytes. It may raise nothing but an assertion of its own: that is a find.
"""

from __future__ import annotations

import math
import pickle
import unicodedata
from collections.abc import Callable
from unittest.mock import patch

from multidict import CIMultiDict

from imagen_async.policy.retry_after import retry_after
from imagen_async.policy.url_guard import address_problem, url_problem
from imagen_async.session.download import _uri
from imagen_async.storage.file_names import NAME_LIMIT, SLUG_LIMIT, file_name, slug
from imagen_async.wire.decoder import AnswerDecoder, AnswerError, AnswerLimits, Embedded
from imagen_async.wire.error_body import clean, read_error_body, request_id
from imagen_async.wire.image_header import inspect
from imagen_async.wire.response import structure_answer
from imagen_async.wire.text import printable, shown_url
from imagen_async.wire.verdict import error_for, judge_error_document, judge_spoiled, judge_status

LIMITS = AnswerLimits(max_image_bytes=4000, max_text_bytes=9000, max_images=3)
HEADERS = ("Retry-After", "Date", "retry-after-ms", "Location", "x-request-id", "x-should-retry")

TOKENS: tuple[bytes, ...] = (
    *(b'{"data":[', b'{"b64_json":"', b'"url":"', b'"}', b'"},', b"]}", b'","', b'"', b"{", b"}"),
    *(b"[", b"]", b",", b":", b"\\", b'\\"', b"\\u00", b"\\ud800", b"null", b"1e999", b"NaN"),
    *(b"QUJD", b"QUJD" * 1100, b"QUJE" * 1400, b"=", b"==", b"-_", b"?", b" ", b"\t", b"\n"),
    *(
        b"data: ",
        b"data:image/png;base64,",
        b"event: x.completed\n",
        b"event: partial\n",
        b"[DONE]",
    ),
    *(
        b"\n\n",
        b"\r\n",
        b'"images":',
        b'"created":',
        b'"error":{"code":',
        b'"type":"',
        b'"index":0',
    ),
    *(
        b"https://x/1",
        b"http://",
        b"\xef\xbb\xbf",
        b"\xff",
        b"\xc3",
        b"<html>",
        b"<title>",
        b"9" * 5000,
    ),
    *(
        b"[" * 2000,
        b'"message":"',
        b"insufficient_quota",
        b"sk-1234567890",
        b"\x1b[31m",
        b"x" * 3000,
    ),
)
"""What answers are made of; a byte of the input picks one, so that few bytes go deep."""


def soup(data: bytes) -> bytes:
    """Return an answer's body: low bytes are tokens, others letters of their own."""
    body = bytearray()
    for byte in data[:40]:
        body += TOKENS[byte] if byte < len(TOKENS) else bytes([(byte + 32) % 128])
        if len(body) > 20_000:  # what is longer only takes time
            break
    return bytes(body)


class _Sink:
    """Counts bytes, and holds the decoder to the rules of a sink."""

    def __init__(self) -> None:
        self.size = 0
        self.state = "open"

    def write(self, data: bytes | memoryview, /) -> None:
        assert self.state == "open"
        self.size += len(data)

    def close(self) -> None:
        assert self.state == "open"
        self.state = "closed"

    def discard(self) -> None:
        assert self.state != "discarded"
        self.state = "discarded"


def decode(data: bytes) -> None:
    """An answer's bytes become a document, or an AnswerError and what can be saved."""
    sinks: list[_Sink] = []

    def open_sink() -> _Sink:
        sinks.append(_Sink())
        return sinks[-1]

    decoder = AnswerDecoder(open_sink, LIMITS)
    size = data[0] * data[0] + 50 if data else 50
    try:
        with patch("imagen_async.wire.json_stream.GATHER", 1):  # or no input would be long enough
            for start in range(1, len(data), size):
                decoder.feed(data[start : start + size])
                assert _held(decoder) <= LIMITS.max_text_bytes + size + 40_000
        document = decoder.finish()
    except AnswerError as error:
        found = decoder.salvage()
        judgement = judge_spoiled(error.reason, error.text, CIMultiDict(), 200)
        _harmless(judgement.message)
    else:
        found = decoder.strays
        _judge(document)
    assert len(found) <= LIMITS.max_images
    for each in found:
        if isinstance(each, Embedded):
            assert each.sink is None or each.sink in sinks
        else:
            assert each.lower().startswith(("http://", "https://"))
    assert all(sink.state != "open" for sink in sinks)
    assert all(sink.size <= LIMITS.max_image_bytes for sink in sinks)
    assert sum(sink.state == "closed" for sink in sinks) <= 2 * LIMITS.max_images
    # A stream may show an image many times before it is done, each time in a sink of its own.
    stream = data[1:].lstrip().startswith((b"data:", b"event:"))
    assert stream or len(sinks) <= 2 * LIMITS.max_images


def _held(decoder: AnswerDecoder) -> int:
    body = decoder._body
    event = getattr(body, "_event", body)
    return len(decoder._head) + getattr(event, "kept", 0)


def _judge(document: object) -> None:
    try:
        answer = structure_answer(document)
    except AnswerError:
        answer = None
    if answer is not None:
        assert all(item.url or item.embedded for item in answer.items)
        assert answer.created is None or answer.created >= 0
        assert len(answer.problems) <= 21
    judgement = judge_error_document(document, CIMultiDict(), 200)
    if judgement is not None:
        _harmless(judgement.message, judgement.code or "")


def _harmless(*texts: str) -> None:
    for text in texts:
        if not text.isprintable():
            assert not {"Cc", "Cf", "Cs", "Zl", "Zp"} & {*map(unicodedata.category, text)}, text


def refuse(data: bytes) -> None:
    """An error's status, headers and body become a judgement and an error that can be shown."""
    status = 100 + int.from_bytes(data[:2], "big") % 900
    values = data[2:200].decode("latin-1").split("\n")
    headers = CIMultiDict(zip(HEADERS, values, strict=False))
    body = data[200:] if len(data) > 200 else soup(data)
    envelope = read_error_body(body)
    assert request_id(headers, envelope.message) != ""
    judgement = judge_status(
        status, headers, body, key_used_before=bool(status % 2), key_honoured=bool(status % 3)
    )
    error = error_for(judgement, attempts=1)
    _harmless(str(error), judgement.code or "", judgement.request_id or "")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def sniff(data: bytes) -> None:
    """Any bytes have a type or none, and a size that is told only with it."""
    heads = (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF", b"GIF89a", b"\0\0\0\x18ftypavif")
    for head in heads:
        media = inspect(head + data)
        assert (media.width is None) == (media.height is None)
        assert not media.complete or (media.media_type is not None and media.width is not None)


def name(data: bytes) -> None:
    """A prompt becomes one path component that every system takes."""
    text = data[1:].decode("utf-16-le" if data[:1] > b"\x80" else "utf-8", "replace")
    text += "\ud800" * (len(data) % 2)  # a lone surrogate, which JSON can carry
    part = slug(text)
    assert 0 < len(part.encode()) <= SLUG_LIMIT
    assert slug(part) == part
    whole = file_name(text, "0123456789ab", len(data), ".png")
    assert len(whole.encode()) <= NAME_LIMIT
    assert not set(whole) & set('<>:"/\\|?*\0\n ')
    assert whole[0] not in ".-"
    assert unicodedata.is_normalized("NFC", whole)
    _harmless(whole)


def guard(data: bytes) -> None:
    """A link that passes means the same to us and to the HTTP client: scheme, host, no user."""
    text = data.decode("utf-8", "surrogateescape")
    for link in (text, f"https://{text}", f"http://{text}/x"):
        problem = url_problem(link, api_scheme="http")
        assert problem is None or problem.isascii()
        if problem is not None:
            continue
        try:
            url = _uri(link)
        except ValueError:
            continue
        assert url.scheme in ("http", "https"), link
        assert (url.user, url.password) == (None, None), link
        assert url.raw_host, link
        assert str(url).isascii(), link
    problem = address_problem(text)
    assert problem is None or problem.isascii()


def wait(data: bytes) -> None:
    """Whatever a server asks for is a finite wait or none."""
    values = data.decode("latin-1").split("\n")
    for shift in range(3):
        headers = CIMultiDict(zip(HEADERS[shift:], values, strict=False))
        seconds = retry_after(headers, 1.7e9)
        assert seconds is None or (math.isfinite(seconds) and seconds >= 0)


def show(data: bytes) -> None:
    """A foreign text that is shown drives no terminal and keeps no secret of a link."""
    text = data.decode("utf-8", "surrogateescape")
    _harmless(printable(text), shown_url(text), clean(text) or "")
    link = shown_url(f"https://user:secret4711@x/{text}?sig=secret4711#secret4711")
    assert "secret4711" not in link or "secret4711" in text
    said = clean(f"see https://u:secret4711@x/?a=secret4711 sk-secret4711 {text}")
    assert "secret4711" not in (said or "") or "secret4711" in text


def decode_soup(data: bytes) -> None:
    """The same as ``decode``, on what answers are made of."""
    decode(data[:1] + soup(data[1:]))


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each for each in (decode_soup, decode, refuse, sniff, name, guard, wait, show)
}
