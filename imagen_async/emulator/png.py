"""Whole PNG files from nothing but zlib, for where Pillow is not installed."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"

Colour = tuple[int, int, int]


def _chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def gradient(size: tuple[int, int], stops: Sequence[Colour]) -> bytes:
    """Return a PNG that runs through colours from top to bottom.

    Args:
        size: Width and height in pixels.
        stops: Two colours or more, red, green and blue from 0 to 255.
    """
    width, height = size
    rows = (b"\x00" + bytes(_at(stops, row, height)) * width for row in range(height))
    return _file(size, rows)


def from_differences(size: tuple[int, int], differences: bytes) -> bytes:
    """Return a PNG from what each pixel adds to the one above it (filter type 2, RFC 2083).

    Args:
        size: Width and height in pixels.
        differences: Three bytes a pixel, row by row, modulo 256.
    """
    stride = 3 * size[0]
    starts = range(0, stride * size[1], stride)
    return _file(size, (b"\x02" + differences[start : start + stride] for start in starts))


def _file(size: tuple[int, int], rows: Iterable[bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    data = zlib.compress(b"".join(rows), 1)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _END


def _at(stops: Sequence[Colour], row: int, height: int) -> Colour:
    position = row * (len(stops) - 1) / max(1, height - 1)
    low = min(int(position), len(stops) - 2)
    share = position - low
    red, green, blue = (
        round(a + (b - a) * share) for a, b in zip(stops[low], stops[low + 1], strict=True)
    )
    return red, green, blue


def with_comment(data: bytes, text: str) -> bytes:
    """Return a PNG with a comment before its end.

    Args:
        data: A whole PNG.
        text: Latin-1 text.
    """
    return data[: -len(_END)] + _chunk(b"tEXt", b"Comment\x00" + text.encode("latin-1")) + _END
