"""One JSON document whose images are decoded while it arrives.

No JSON grammar of our own: an expression finds the start of a long image string, by its name or by
its own first letters, and ``json.loads`` reads what is left. In JSON nothing but a string begins
with a quote, a letter after it and no backslash before it, so no prompt can pass for one. What the
expression misses (short strings, names spelled with escapes) is decoded at the end.

The decoder is in one of three states:

    TEXT    ``_string`` is None: bytes join ``_text``, which ``_scan`` searches
    STRING  ``_string`` is open: bytes are decoded into its sink, and none is kept
    DEAD    after ``finish``, ``salvage`` or any error; only ``salvage`` goes on from an error

            the start of a long image string
    TEXT -----------------------------------------> STRING
         <-----------------------------------------
                     its closing quote

What was read is kept as it stood, with a hole for each diverted string:

    _texts[0]  _images[0]  _texts[1]  _images[1] ... _text

``finish`` puts a mark into each hole, parses the whole, and puts the images where the marks came
out. ``salvage`` does the same with the longest start of the text that can be closed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections import deque
from typing import TYPE_CHECKING, TypeAlias

import attrs

from imagen_async.wire.base64_stream import Embedded, ImageString, Sink
from imagen_async.wire.image_paths import (
    BEGINNING,
    BYTES_NAMES,
    LISTS,
    is_image,
    leaves,
    may_hold_image,
    worth,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONG = 4096
"""Bytes of a string that must be there before it is worth diverting."""

EXCERPT = 65_536
"""Bytes of the text that an error keeps."""

GATHER = 65_536
"""Bytes that are taken at once: smaller pieces wait, since a piece costs more than its bytes."""

_SLICE = 65_536
_LONGEST_START = 48
_LONG_STRING = re.compile(
    rb'"(?=[bidD/RUA\\])(?<!\\")(?:(?:%s)"[ \t\r\n]{0,8}:[ \t\r\n]{0,8}"|(?=%s))[^"]{%d}'
    % ("|".join(BYTES_NAMES).encode(), BEGINNING.encode(), LONG)
)
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[][{}]|[^][{}"]+', re.DOTALL)
_MOST_TOKENS = 20_000
_DECODER = json.JSONDecoder()
_Open: TypeAlias = "tuple[str, _Open | None]"
"""What closes the innermost object or list, and the ones around it."""


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
    """

    __slots__ = (
        "_count",
        "_dead",
        "_diverted_before",
        "_images",
        "_limits",
        "_open_sink",
        "_pending",
        "_scanned",
        "_string",
        "_text",
        "_texts",
        "_waiting",
        "strays",
    )

    def __init__(self, open_sink: Callable[[], Sink], limits: AnswerLimits) -> None:
        self.strays: list[Embedded | str] = []
        self._open_sink = open_sink
        self._limits = limits
        self._pending: list[bytes] = []
        self._waiting = 0
        self._texts: list[bytes] = []
        self._diverted_before = 0
        self._text = bytearray()
        self._scanned = 0
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
        return b"".join((*self._texts, self._text[:EXCERPT]))[:EXCERPT]

    def feed(self, chunk: bytes, /) -> None:
        """Take the next bytes of the document.

        Raises:
            AnswerError: The text is too large; the decoder is dead.
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
        if self._texts or self._text or self._waiting >= LONG:
            self._flush()
        self._text += self._gathered()
        self._dead = True
        if self._string is not None:
            raise self._error("the answer is cut inside an image")
        if self.kept > self._limits.max_text_bytes:
            raise self._too_large()
        marks: dict[str, Embedded] = {}
        try:
            return self._read(self._marked(marks).decode("utf-8", "surrogatepass"), marks)
        except UnicodeDecodeError:
            raise self._error("the answer is not UTF-8") from None
        except json.JSONDecodeError as error:
            raise self._error(f"the answer is not JSON: {error.msg} at {error.pos}") from None
        except (ValueError, RecursionError):
            raise self._error("the answer is no JSON that Python reads") from None

    def salvage(self) -> list[Embedded | str]:
        """End the decoder; return the images and links that arrived whole in a body that did not.

        A link has to be the ``url`` of an item without an image, in text that is JSON up to there.
        """
        if not self._dead:
            with contextlib.suppress(AnswerError):
                self._flush()
        self._dead = True
        if self._string is not None:
            self._string.abandon()
            self._string = None
        marks: dict[str, Embedded] = {}
        text = self._marked(marks).decode("utf-8", "replace")
        self._texts, self._images = [], []
        self._text.clear()
        found = self._saved(text, marks)
        most = self._limits.max_images
        return [
            each
            for place, each in enumerate(found)
            if (place < most if isinstance(each, str) else each.sink is not None)
        ]

    def _read(self, text: str, marks: dict[str, Embedded]) -> object:
        """Return what ``finish`` does, of the whole text; an error is one of JSON."""
        document = _first_value(text)
        if marks or may_hold_image(text):
            document = self._put_images(document, marks)
            self.strays = [*marks.values()]
        return document

    def _saved(self, text: str, marks: dict[str, Embedded]) -> list[Embedded | str]:
        """Return what ``salvage`` does, of text that ends somewhere."""
        document = self._put_images(closed(text.lstrip(" \t\r\n")), marks)
        return [*worth(document), *marks.values()]

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
                # It costs itself alone: the text is no JSON any more, but more images may come.
                self._string.abandon()
                self._images.append(Embedded(None, "a broken string"))
                self._string = None
                continue
            if rest is not None:
                self._images.append(self._string.finish())
                self._string = None

    def _scan(self) -> bytes:
        """Look for a long image string; return its bytes so far, taken out of the text."""
        found = _LONG_STRING.search(self._text, self._scanned)
        if found is not None:
            start = found.end() - LONG
            rest = bytes(memoryview(self._text)[start:])
            self._texts.append(bytes(self._text[:start]))
            self._diverted_before += start
            self._text.clear()
            self._scanned = 0
            self._string = self._open_string()
            return rest
        self._scanned = max(self._scanned, len(self._text) - LONG - _LONGEST_START)
        # A string that is not decided yet may still leave the text: without this slack it would
        # depend on the cuts whether an answer at the limit is taken.
        if self.kept > self._limits.max_text_bytes + LONG + _LONGEST_START:
            raise self._too_large()
        return b""

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
        texts = [*self._texts, bytes(self._text)]
        mark = hashlib.sha256(b'"'.join(texts)).hexdigest() if self._images else ""
        for index, image in enumerate(self._images):
            marks[f"{mark}{index}"] = image
            texts[index] += f"{mark}{index}".encode()
        return b"".join(texts)

    def _put_images(self, document: object, marks: dict[str, Embedded]) -> object:
        """Return a document with its images in it; marks that it does not hold are left."""
        root = [document]
        for holder, name, text in leaves(root):
            if type(text) is str and text:
                if text in marks:
                    holder[name] = marks.pop(text)
                elif is_image(name, text):
                    string = self._open_string()
                    string.take(text)
                    holder[name] = string.finish()
        return root[0]

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


def _first_value(text: str) -> object:
    """Return the document; of several in one body, which gateways do send, the one with images."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        wrong = error
    first, start = None, text.find("{")
    whole = not text[: max(start, 0)].strip()
    with contextlib.suppress(ValueError):
        while start >= 0:
            value, end = _DECODER.raw_decode(text, start)
            if any(map(value.get, LISTS)):
                return value
            first = first or value
            start = text.find("{", end)
    if not first or not whole:
        raise wrong
    return first


def closed(text: str) -> object:
    """Return the document of the longest start of a text that is JSON once it is closed."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        text = text[: error.pos]
    except (ValueError, RecursionError):
        return None
    # the last ones may be a name, its colon, half a number
    ends: deque[tuple[int, _Open | None]] = deque([(0, None)], maxlen=8)
    open_: _Open | None = None
    for _ in range(_MOST_TOKENS):
        token = _TOKEN.match(text, ends[-1][0])
        if token is None:
            break
        if token[0] in "{[":
            open_ = "}" if token[0] == "{" else "]", open_
        elif token[0] in "}]" and open_ is not None:
            open_ = open_[1]
        ends.append((token.end(), open_))
    for end, each in reversed(ends):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads("".join([text[:end], *_closers(each)]))
    return None


def _closers(open_: _Open | None) -> Iterator[str]:
    while open_ is not None:
        closer, open_ = open_
        yield closer
