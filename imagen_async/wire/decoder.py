"""The body of an answer, from bytes to a document whose images went to their sinks."""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING

from imagen_async.wire.base64_stream import Embedded, Sink
from imagen_async.wire.image_paths import may_hold_image
from imagen_async.wire.json_stream import AnswerError, AnswerLimits, DocumentDecoder
from imagen_async.wire.sse import STARTS, EventDecoder

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["AnswerDecoder", "AnswerError", "AnswerLimits", "Embedded", "Sink"]

_DEFAULT = AnswerLimits()
_SMALL = 4096
"""Bytes of a first piece that waits for a second one, or for the end."""
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"GIF8")
"""How an image begins that came as it is; no text does."""
_BOM = b"\xef\xbb\xbf"
_BLANK = re.compile(rb"(?:[ \t\r\n]++|%s)*+" % _BOM)


class AnswerDecoder:
    """Takes the body of an answer in pieces cut anywhere; decodes its images as they arrive.

    A body that starts like a stream of server-sent events, or like an image, is read as one,
    whatever its label; blanks and a byte order mark before the document are tolerated. The base64
    of every image goes to sinks, wherever in the document it stands; so memory grows neither with
    the size of an image nor with their number.

    Args:
        open_sink: Makes the sink of one image, at its first decoded byte.
        limits: How much of the body is taken.
    """

    __slots__ = ("_blanks", "_body", "_head", "_limits", "_open_sink", "_small")

    def __init__(self, open_sink: Callable[[], Sink], limits: AnswerLimits = _DEFAULT) -> None:
        self._open_sink = open_sink
        self._limits = limits
        self._head = b""
        self._small = min(_SMALL, limits.max_text_bytes)
        self._blanks = 0
        self._body: DocumentDecoder | EventDecoder | _BareImage | None = None

    @property
    def strays(self) -> list[Embedded | str]:
        """Whole images, and links, that no item of the document has; known after ``finish``."""
        if self._body is None:
            return []
        return [
            each for each in self._body.strays if isinstance(each, str) or each.sink is not None
        ]

    def feed(self, chunk: bytes, /) -> None:
        """Take the next bytes of the body.

        Raises:
            AnswerError: The text is larger than the limit; the decoder is dead but for
                ``salvage``.
        """
        if self._body is None:
            self._begin(chunk)
        else:
            self._body.feed(chunk)

    def finish(self) -> object:
        """Return the document as ``json.loads`` gives it, an ``Embedded`` for each image string.

        Of a stream of events it is the answer that its completed events amount to.

        Raises:
            AnswerError: The body is cut, too large or not JSON; ``salvage`` has what came of it.
        """
        if self._body is None:
            with contextlib.suppress(ValueError, RecursionError):
                text = self._head.decode()
                if not may_hold_image(text):
                    return json.loads(text)
        return self._known_body().finish()

    def salvage(self) -> list[Embedded | str]:
        """End the decoder where it is, and return the images and the links that are whole.

        For a body that was cut, and after an ``AnswerError``; the half image is discarded. A link
        is an item's ``url`` of http or https that came with its closing quote; one that stands in
        an item beside a whole image is left out. Nothing else of the text, such as a prompt that
        holds JSON, passes for one.
        """
        return self._known_body().salvage()

    def _begin(self, chunk: bytes) -> None:
        if not self._head and chunk[:1] == b"{" and len(chunk) < self._small:
            self._head = chunk
            return
        head = self._head + chunk
        if head[:1] != b"{":
            size = len(head)
            head = _BLANK.sub(b"", head, count=1)
            self._blanks += size - len(head)
            if self._blanks > self._limits.max_text_bytes:
                raise AnswerError(f"more than {self._limits.max_text_bytes} blanks came before it")
            if any(head != start and start.startswith(head) for start in (_BOM, *STARTS, *_MAGIC)):
                self._head = head
                return
        self._head = b""
        if head.startswith(_MAGIC):
            self._body = _BareImage(self._open_sink(), self._limits.max_image_bytes)
        else:
            kind = EventDecoder if head.startswith(STARTS) else DocumentDecoder
            self._body = kind(self._open_sink, self._limits)
        self._body.feed(head)

    def _known_body(self) -> DocumentDecoder | EventDecoder | _BareImage:
        if self._body is None:
            self._body = DocumentDecoder(self._open_sink, self._limits)
            self._body.feed(self._head)
        return self._body


class _BareImage:
    """Takes an image that came as it is, in place of a document; a cut one is kept as it came."""

    __slots__ = ("_left", "_sink", "strays")

    def __init__(self, sink: Sink, limit: int) -> None:
        self.strays: list[Embedded | str] = []
        self._sink: Sink | None = sink
        self._left = limit

    def feed(self, chunk: bytes, /) -> None:
        self._left -= len(chunk)
        if self._sink is not None and self._left < 0:
            self._sink.discard()
            self._sink = None
        if self._sink is None:
            raise AnswerError("the image is larger than the limit")
        self._sink.write(chunk)

    def finish(self) -> object:
        return {"data": [{"b64_json": each} for each in self.salvage()]}

    def salvage(self) -> list[Embedded | str]:
        sink, self._sink = self._sink, None
        if sink is None:
            return []
        sink.close()
        return [Embedded(sink)]
