"""The base64 of an image, decoded while it arrives."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Protocol

import attrs
import pybase64

if TYPE_CHECKING:
    from collections.abc import Callable

PREFIX_LIMIT = 512
"""Characters of a value that decide whether it begins with ``data:...;base64,``."""

_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
_PAD = 0x3D
_SPACE = b" \t\r\n"
_STANDARD = bytes.maketrans(b"-_", b"+/")
_PREFIX = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)
_MAY_BEGIN_PREFIX = frozenset(b"dD\\")
_TO_QUOTE = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_LONGEST_HALF = 5
"""Bytes of the longest half character: ``\\u12f``; of UTF-8 it is three."""


class Sink(Protocol):
    """Where the bytes of one image go; nothing is written after close or discard."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Take the next bytes."""

    def close(self) -> None:
        """Keep what was written: the image is complete."""

    def discard(self) -> None:
        """Drop what was written: it is no whole image, or one that nobody wants, closed or not."""


@attrs.frozen
class Embedded:
    """What stands in a document where the base64 of an image stood.

    Args:
        sink: Where the bytes are; None when nothing was kept.
        problem: Why the image is spoiled, one line; None for a whole one.
    """

    sink: Sink | None
    problem: str | None = None


class Base64Decoder:
    """Decodes one base64 value from pieces into a sink.

    The sink is opened at the first decoded byte, and after a problem nothing more is written.
    Whitespace, the URL-safe alphabet and missing padding are tolerated.

    Args:
        open_sink: Makes the sink.
        limit: The most bytes that the image may have.
    """

    __slots__ = ("_carry", "_limit", "_open_sink", "_padded", "_problem", "_sink", "_size")

    def __init__(self, open_sink: Callable[[], Sink], limit: int) -> None:
        self._open_sink = open_sink
        self._limit = limit
        self._carry = b""
        self._padded = False
        self._problem: str | None = None
        self._sink: Sink | None = None
        self._size = 0

    def offer(self, piece: bytes | memoryview) -> bool:
        """Take a piece if it is plain base64 throughout: the fast path.

        Args:
            piece: Bytes of the value, cut anywhere.

        Returns:
            False, with nothing taken, if ``write`` has to look at the piece.
        """
        needed = -len(self._carry) % 4
        end = len(piece) - (len(piece) - needed) % 4
        tail = bytes(piece[end:])
        if end <= needed or self._padded or self._problem or tail.translate(None, _LETTERS):
            return False
        seam = b""
        try:
            decoded = pybase64.b64decode(memoryview(piece)[needed:end], None, True)
            if needed:
                seam = pybase64.b64decode(self._carry + piece[:needed], None, True)
        except ValueError:
            return False
        padded = piece[end - 1] == _PAD
        if (padded and tail) or 0 < len(seam) < 3:  # padding, and yet more letters
            return False
        self._padded = padded
        self._carry = tail
        if seam:  # written by itself, for joining would copy the rest
            self._emit(seam)
        self._emit(decoded)
        return True

    def write(self, piece: bytes) -> None:
        """Take any piece: clean it first, and note a problem if it is no base64."""
        if self._problem:
            return
        letters = self._carry + piece.translate(_STANDARD, _SPACE)
        end = len(letters) & ~3
        self._carry = letters[end:]
        if self._padded and letters:
            self.spoil("bad base64")
        elif end:
            self._decode(letters[:end])
        if self._carry.translate(None, _LETTERS):
            self.spoil("bad base64")

    def spoil(self, problem: str) -> None:
        """Note why the value is no image, and drop what was written; the first reason stays."""
        if self._problem is None:
            self._problem = problem
            self.abandon()

    def abandon(self) -> None:
        """Drop what was written: the value will not become whole."""
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.discard()

    def finish(self) -> Embedded:
        """Decode the last letters and close the sink: the value is at its end."""
        if self._carry and not self._problem:
            self.write(b"=" * (-len(self._carry) % 4))
        if self._sink is None:
            self.spoil("empty")
            return Embedded(None, self._problem)
        sink, self._sink = self._sink, None
        sink.close()
        return Embedded(sink)

    def _decode(self, letters: bytes) -> None:
        try:
            decoded = pybase64.b64decode(letters, None, True)
        except ValueError:
            self.spoil("bad base64")
            return
        self._padded = letters.endswith(b"=")
        if self._padded and self._carry:
            self.spoil("bad base64")
            return
        self._emit(decoded)

    def _emit(self, decoded: bytes) -> None:
        self._size += len(decoded)
        if self._size > self._limit:
            self.spoil(f"larger than {self._limit} bytes")
            return
        if self._sink is None:
            self._sink = self._open_sink()
        self._sink.write(decoded)


class ImageString:
    """The inside of one JSON string that holds an image, from its raw pieces.

    Args:
        open_sink: Makes the sink.
        limit: The most bytes that the image may have.
        problem: Given when the image is not wanted: its string is read and dropped.
    """

    __slots__ = ("_base64", "_fresh", "_held")

    def __init__(
        self, open_sink: Callable[[], Sink], limit: int, problem: str | None = None
    ) -> None:
        self._base64 = Base64Decoder(open_sink, limit)
        self._fresh = True
        self._held = b""
        if problem:
            self._base64.spoil(problem)

    def feed(self, piece: bytes | memoryview) -> memoryview | None:
        r"""Take the next piece of the string, in JSON's own spelling.

        Args:
            piece: Raw bytes, not empty; the first has ``PREFIX_LIMIT`` characters or the end.

        Returns:
            The closing quote and what follows it, or None while the string is open.

        Raises:
            ValueError: The string is not JSON.
        """
        if not self._held and self._offer(piece):
            return None
        piece = self._held + piece
        end = _string_end(piece)
        if end < 0:
            text, self._held = _unescape_start(piece)
            self.take(text)
            return None
        self._held = b""
        if not self._offer(piece[:end]):
            self.take(_unescape(piece[:end]))
        return memoryview(piece)[end:]

    def take(self, text: str) -> None:
        """Take text that has been unescaped already."""
        if self._fresh:
            self._fresh = False
            if found := _PREFIX.match(text, 0, PREFIX_LIMIT):
                text = text[found.end() :]
            elif text[:5].lower() == "data:":
                self._base64.spoil("a data: URL without base64")
        if text.isascii():
            self._base64.write(text.encode("ascii"))
        else:
            self._base64.spoil("bad base64")

    def finish(self) -> Embedded:
        """Return what the string was, now that it is closed."""
        return self._base64.finish()

    def abandon(self) -> None:
        """Drop what was written: the string will not be closed."""
        self._base64.abandon()

    def _offer(self, piece: bytes | memoryview) -> bool:
        if self._fresh and (not piece or piece[0] in _MAY_BEGIN_PREFIX):
            return False
        taken = self._base64.offer(piece)
        self._fresh = self._fresh and not taken
        return taken


def _string_end(piece: bytes) -> int:
    """Return where the first quote that is not escaped stands, or -1."""
    end = piece.find(b'"')
    if end > 0 and piece[end - 1] == 0x5C:
        found = _TO_QUOTE.match(piece)
        end = found.end() - 1 if found else -1
    return end


def _unescape(piece: bytes) -> str:
    """Return the text that the inside of a JSON string stands for."""
    text: str = json.loads('"' + piece.decode("utf-8", "surrogatepass") + '"')
    return text


def _unescape_start(piece: bytes) -> tuple[str, bytes]:
    """Return the text of an open string, and the half character at its end, still raw.

    Raises:
        ValueError: It is not the start of a JSON string.
    """
    for held in range(_LONGEST_HALF):
        end = len(piece) - held
        try:
            return _unescape(piece[:end]), piece[end:]
        except ValueError:
            continue
    end = len(piece) - _LONGEST_HALF
    return _unescape(piece[:end]), piece[end:]
