"""One JSON document whose images are decoded while it arrives.

No JSON grammar of our own: an expression finds what may be the start of a long image string, and
``json.loads`` of the text so far, closed with a dummy string, proves the place. Diverting a string
only saves memory; what the expression misses stays in the text and is decoded at the end.

The decoder is in one of three states:

    TEXT    ``_string`` is None: bytes join ``_text``, which ``_scan`` searches
    STRING  ``_string`` is open: bytes are decoded into its sink, and none is kept
    DEAD    after ``finish``, ``salvage`` or any error; only ``salvage`` goes on from an error

            a long string whose place is proven
    TEXT -----------------------------------------> STRING
         <-----------------------------------------
                     its closing quote

What was read is kept as it stood, with a hole for each diverted string:

    _segments[0]  _images[0]  _segments[1]  _images[1] ... _text

``finish`` puts a mark into each hole, parses the whole, and puts the images where the marks came
out. ``salvage`` cannot parse: it proves each string anew from what stands before it. To keep that
linear, ``_proven_prefix`` (a constant stub) stands for all text before the latest proven string,
and bytes judged without a result are counted in ``_wasted_bytes``: past the text limit nothing is
judged any more, so hostile text costs memory within the limit and no time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from typing import TYPE_CHECKING

import attrs

from imagen_async.wire.base64_stream import Embedded, ImageString, Sink
from imagen_async.wire.image_paths import BARE_PLACES, NAMES, PLACES, Proof, holders, is_link, loads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONG = 4096
"""Bytes of a string that must be there before it is worth diverting."""

EXCERPT = 65_536
"""Bytes of the text that an error keeps."""

GATHER = 65_536
"""Bytes that are taken at once: smaller pieces wait, since a piece costs more than its bytes."""

_SLICE = 65_536
_LONGEST_START = 32
_START = rb'"b64_json"[ \t\r\n]{0,8}:[ \t\r\n]{0,8}"'
_LONG_STRING = re.compile(rb'(?:%s|"(?i:(?=data:)))[^"]{%d}' % (_START, LONG))
_WHOLE_STRING = re.compile(
    rb'"(?:b64_json|url)"[ \t\r\n]{0,8}:[ \t\r\n]{0,8}("[^"\\]*+(?:\\.[^"\\]*+)*+")', re.DOTALL
)
_DECODER = json.JSONDecoder()


@attrs.frozen(eq=False, repr=False)
class AnswerLimits:
    """How much of an answer is taken.

    Args:
        max_image_bytes: The most bytes of one decoded image.
        max_text_bytes: The most bytes of an answer that are not images.
        max_images: The most images of one answer; more are read and dropped.
    """

    max_image_bytes: int = 64 * 1024 * 1024
    max_text_bytes: int = 1024 * 1024
    max_images: int = 128


class AnswerError(Exception):
    """The body is not an answer: broken JSON, too large, or something else altogether.

    Args:
        reason: What is wrong, one line, without words of the server.
        text: The first ``EXCERPT`` bytes of the body's text, without its images.
    """

    def __init__(self, reason: str, text: bytes = b"") -> None:
        super().__init__(reason, text)
        self.reason = reason
        self.text = text

    def __str__(self) -> str:
        return self.reason


class DocumentDecoder:
    """Takes a JSON document in pieces cut anywhere, and gives it with its images decoded.

    Args:
        open_sink: Makes the sink of one image, at its first byte.
        limits: How much is taken.
        bare: The document is an event of a stream: its image may stand at the top.
    """

    __slots__ = (
        "_bare",
        "_count",
        "_dead",
        "_diverted_before",
        "_images",
        "_limits",
        "_open_sink",
        "_pending",
        "_proven_prefix",
        "_scanned",
        "_segments",
        "_string",
        "_text",
        "_waiting",
        "_wasted_bytes",
        "strays",
    )

    def __init__(
        self, open_sink: Callable[[], Sink], limits: AnswerLimits, *, bare: bool = False
    ) -> None:
        self.strays: list[Embedded | str] = []
        self._open_sink = open_sink
        self._limits = limits
        self._bare = bare
        self._pending: list[bytes] = []
        self._waiting = 0
        self._segments: list[tuple[bytes, bytes]] = []  # the proven prefix, the text after it
        self._diverted_before = 0
        self._proven_prefix = b""
        self._text = bytearray()
        self._scanned = 0
        self._wasted_bytes = 0
        self._string: ImageString | None = None
        self._images: list[Embedded] = []
        self._count = 0
        self._dead = False

    @property
    def kept(self) -> int:
        """Bytes of text in memory."""
        return self._diverted_before + len(self._text) + self._waiting

    @property
    def excerpt(self) -> bytes:
        """The first ``EXCERPT`` bytes of the text, each image in it an empty string."""
        texts = [text for _, text in self._segments]
        texts.append(bytes(self._text[:EXCERPT]))
        return b'""'.join(texts)[:EXCERPT]

    def feed(self, chunk: bytes, /) -> None:
        """Take the next bytes of the document.

        Raises:
            AnswerError: The text is too large, or a string is not JSON; the decoder is dead.
        """
        if self._dead:
            raise AnswerError("the answer has ended")
        self._pending.append(chunk)
        self._waiting += len(chunk)
        if self._waiting >= GATHER:
            self._flush()

    def finish(self) -> object:
        """Return the document, with an ``Embedded`` in the stead of each image string.

        Raises:
            AnswerError: The document is cut, too large or not JSON; ``salvage`` has its images.
        """
        if self._dead:
            raise AnswerError("the answer has ended")
        if self._segments or self._text or self._waiting >= LONG:
            self._flush()
        self._text += self._gathered()
        self._dead = True
        if self._string is not None:
            raise self._error("the answer is cut inside an image")
        if self.kept > self._limits.max_text_bytes:
            raise self._too_large()
        marks: dict[str, Embedded] = {}
        text = self._marked(marks) if self._segments else bytes(self._text)
        try:
            document = _first_value(text)
        except UnicodeDecodeError:
            raise self._error("the answer is not UTF-8") from None
        except json.JSONDecodeError as error:
            raise self._error(f"the answer is not JSON: {error.msg} at {error.pos}") from None
        except (ValueError, RecursionError):
            raise self._error("the answer is no JSON that Python reads") from None
        self._put_images(document, marks)
        self.strays = [*marks.values()]
        return document

    def salvage(self) -> list[Embedded | str]:
        """End the decoder; return the images and links that arrived whole in a body that did not.

        All text before a link has to prove that it is the ``url`` of an item.
        """
        self.drain()
        self._dead = True
        if self._string is not None:
            self._string.abandon()
            self._string = None
        found: list[Embedded | str | None] = []
        texts = [*self._segments, (self._proven_prefix, bytes(self._text))]
        for index, (prefix, text) in enumerate(texts):
            rest = self._gather(prefix, text, found)
            for image in self._images[index : index + 1]:
                proof = self._judge(*rest)
                _add(found, image, joined=proof is not None and proof.joined)
        self._segments, self._images = [], []
        self._text.clear()
        return [each for each in found if each is not None]

    def drain(self) -> None:
        """Take what waits for more; what is wrong with it does not matter any more."""
        if not self._dead:
            with contextlib.suppress(AnswerError):
                self._flush()

    def _gathered(self) -> bytes:
        chunk = b"".join(self._pending)
        self._pending.clear()
        self._waiting = 0
        return chunk

    def _flush(self) -> None:
        chunk = self._gathered()
        try:
            for piece in (chunk,) if len(chunk) <= _SLICE else _slices(chunk):
                self._process(piece)
        except BaseException:
            self._dead = True
            raise

    def _process(self, piece: bytes | memoryview) -> None:
        rest: bytes | memoryview | None = piece
        while rest:
            if self._string is None:
                self._text += rest
                rest = self._scan()
                continue
            try:
                rest = self._string.feed(rest)
            except (json.JSONDecodeError, UnicodeDecodeError):
                raise self._error("the answer is not JSON: a string is broken") from None
            if rest is not None:
                self._images.append(self._string.finish())
                self._string = None

    def _scan(self) -> bytes:
        """Look for a long image string; return its bytes so far, taken out of the text."""
        while self._wasted_bytes <= self._limits.max_text_bytes:
            found = _LONG_STRING.search(self._text, self._scanned)
            if found is None:
                self._scanned = max(self._scanned, len(self._text) - LONG - _LONGEST_START)
                break
            start = self._scanned = found.end() - LONG
            proof = self._judge(self._proven_prefix, bytes(self._text[: start - 1]))
            if proof is not None:
                return self._divert(start, proof.stub)
        # A string that is not decided yet may still leave the text: without this slack it would
        # depend on the cuts whether an answer at the limit is taken.
        if self.kept > self._limits.max_text_bytes + LONG + _LONGEST_START:
            raise self._too_large()
        return b""

    def _judge(self, prefix: bytes, text: bytes) -> Proof | None:
        """Return what a string after this text is, None if it is no image's."""
        text = prefix + text
        for place in BARE_PLACES if self._bare else PLACES:
            proof = place.prove(text)
            if proof is not None:
                return proof
            self._wasted_bytes += len(text)
        return None

    def _divert(self, start: int, stub: bytes) -> bytes:
        rest = bytes(memoryview(self._text)[start:])
        self._segments.append((self._proven_prefix, bytes(self._text[: start - 1])))
        self._diverted_before += start - 1
        self._proven_prefix = stub
        self._text.clear()
        self._scanned = 0
        self._string = self._open_string()
        return rest

    def _open_string(self) -> ImageString:
        self._count += 1
        problem = "over the number of images" if self._count > self._limits.max_images else None
        return ImageString(self._open_sink, self._limits.max_image_bytes, problem)

    def _decode(self, text: str) -> Embedded:
        string = self._open_string()
        string.take(text)
        return string.finish()

    def _marked(self, marks: dict[str, Embedded]) -> bytes:
        """Return the whole text, with a mark in the stead of each string that was diverted.

        The mark is the text's own hash: no text can hold it, however it is spelled.
        """
        texts = [text for _, text in self._segments]
        texts.append(bytes(self._text))
        mark = hashlib.sha256(b'"'.join(texts)).hexdigest()
        pieces = [texts[0]]
        for index, (image, text) in enumerate(zip(self._images, texts[1:], strict=True)):
            marks[f"{mark}{index}"] = image
            pieces += b'"%s%d"' % (mark.encode(), index), text
        return b"".join(pieces)

    def _put_images(self, document: object, marks: dict[str, Embedded]) -> None:
        for item in holders(document, bare=self._bare):
            for name in NAMES:
                text = item.get(name)
                if type(text) is not str or not text:
                    continue
                if text in marks:
                    item[name] = marks.pop(text)
                elif name == "b64_json" or text[:5].lower() == "data:":
                    item[name] = self._decode(text)

    def _gather(
        self, prefix: bytes, text: bytes, found: list[Embedded | str | None]
    ) -> tuple[bytes, bytes]:
        """Add what a text of a broken document holds unharmed; return what follows it."""
        start = 0
        for string in _WHOLE_STRING.finditer(text):
            if (
                self._wasted_bytes > self._limits.max_text_bytes
                or self._count >= self._limits.max_images
            ):
                break
            proof = self._judge(prefix, text[start : string.start(1)])
            if proof is not None:
                prefix, start = proof.stub, string.end()
                _add(found, self._whole(proof.name, string[1]), joined=proof.joined)
        return prefix, text[start:]

    def _whole(self, name: str, string: bytes) -> Embedded | str | None:
        """Return the image or the link that a JSON string is."""
        try:
            text: str = loads(string)
        except ValueError:
            return None
        if name == "b64_json" or text[:5].lower() == "data:":
            return self._decode(text) if text else None
        self._count += 1
        return text if is_link(text) else None

    def _too_large(self) -> AnswerError:
        return self._error(f"the answer's text is larger than {self._limits.max_text_bytes} bytes")

    def _error(self, reason: str) -> AnswerError:
        return AnswerError(reason, self.excerpt)


def _slices(chunk: bytes) -> Iterator[memoryview]:
    """Cut a chunk into even views that stay in the processor's cache; copies would cost a tenth."""
    size = -(-len(chunk) // -(-len(chunk) // _SLICE))
    view = memoryview(chunk)
    for start in range(0, len(chunk), size):
        yield view[start : start + size]


def _first_value(text: bytes) -> object:
    """Return the document; of two in one body, which gateways do send, the first object."""
    try:
        return loads(text)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
        first = _DECODER.raw_decode(error.doc.lstrip(" \t\r\n"))[0]
        if not isinstance(first, dict):
            raise
        return first


def _add(found: list[Embedded | str | None], value: Embedded | str | None, *, joined: bool) -> None:
    """Add a string's worth to what was found, one for each item: an image goes before a link."""
    if isinstance(value, Embedded) and value.sink is None:
        value = None
    latest = found[-1] if joined and found else None
    if not joined or not found or (isinstance(value, Embedded) and isinstance(latest, Embedded)):
        found.append(value)
    elif value is not None and not isinstance(latest, Embedded):
        found[-1] = value
