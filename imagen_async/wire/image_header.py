"""What an answer's bytes are: type, and of a raster image its size and whether it is whole.

Nothing is decoded and no checksum computed: the parts of a file are hopped over, so that it costs
microseconds, in memory as over a mapped file.
"""

from __future__ import annotations

import itertools
import re
import struct
from typing import TYPE_CHECKING, TypeAlias

import attrs

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterator

    Buffer: TypeAlias = bytes | bytearray | memoryview | mmap.mmap

MAX_SIDE = 16_384
"""Pixels of a side beyond which a size is taken for a lie."""

MAX_PIXELS = 89_478_485
"""Pixels beyond which Pillow warns of a decompression bomb (``PIL.Image.MAX_IMAGE_PIXELS``)."""

UNKNOWN = "application/octet-stream"
"""The media type of bytes that are nothing we know."""

_HEAD = 4096
_MOST_PARTS = 100_000
"""Chunks, segments or boxes that are followed: a hostile file can hold millions."""

_JPEG_SCAN_END = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD9)})
_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9


@attrs.frozen
class Media:
    """What the bytes of an image tell.

    Args:
        media_type: Such as ``image/png``.
        width: Pixels; None if the bytes end before they are told, or are no raster image.
        height: Pixels.
        complete: The bytes reach to the end that the format itself marks.
        problem: Why the size cannot be right, one line.
    """

    media_type: str = UNKNOWN
    width: int | None = None
    height: int | None = None
    complete: bool = False
    problem: str | None = None

    @property
    def raster(self) -> bool:
        """Whether it is a raster image whose size and end can be told, and that a page may show."""
        return self.media_type in RASTERS


@attrs.frozen(eq=False, repr=False)
class _Format:
    media_type: str
    suffix: str
    magic: re.Pattern[bytes]
    read_size: Callable[[Buffer], tuple[int, int] | None]
    is_complete: Callable[[Buffer], bool]


def inspect(data: Buffer) -> Media:
    """Tell what an image is from its bytes.

    Args:
        data: The bytes of a whole file, in memory or mapped.

    Returns:
        What the bytes tell; of all but raster images that is the type. Never raises.
    """
    found = next((each for each in _FORMATS if each.magic.match(data)), None)
    if found is None:
        head = bytes(data[:_HEAD])
        return next((Media(kind) for kind, _, magic in _OTHERS if magic.match(head)), Media())
    try:
        size = found.read_size(data)
    except (struct.error, IndexError):
        size = None
    try:
        complete = found.is_complete(data)
    except (struct.error, IndexError):
        complete = False
    if size is None:
        return Media(found.media_type)
    return Media(found.media_type, *size, complete, _size_problem(*size))


def suffix(media_type: str | None) -> str:
    """Return the suffix of a file of this media type, ``.bin`` for one that we do not know."""
    return SUFFIXES.get(media_type, ".bin")


def _size_problem(width: int, height: int) -> str | None:
    if 0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS:
        return None
    return f"claims {width} x {height} pixels"


def _png_size(data: Buffer) -> tuple[int, int] | None:
    """Read IHDR, the first chunk (PNG specification, 11.2.1)."""
    kind, width, height = struct.unpack_from(">4sII", data, 12)
    return (width, height) if kind == b"IHDR" else None


def _png_is_complete(data: Buffer) -> bool:
    position = 8
    for _ in range(_MOST_PARTS):
        length: int
        length, kind = struct.unpack_from(">I4s", data, position)
        position += 12 + length
        if kind == b"IEND":
            return position <= len(data)
    return False


def _jpeg_segments(data: Buffer) -> Iterator[tuple[int, int]]:
    """Yield each marker and where it stands (ITU-T T.81, B.1); scans are searched for their end."""
    position = 2
    for _ in range(_MOST_PARTS):
        if data[position] != 0xFF:
            return
        marker = data[position + 1]
        yield marker, position
        if marker == 0xFF:  # fill
            position += 1
        elif marker in _JPEG_BARE:
            position += 2
        else:
            position += 2 + struct.unpack_from(">H", data, position + 2)[0]
        if marker == _JPEG_SCAN:
            end = _JPEG_SCAN_END.search(data, position)
            if end is None:
                return
            position = end.start()


def _jpeg_size(data: Buffer) -> tuple[int, int] | None:
    for marker, position in _jpeg_segments(data):
        if marker in _JPEG_SIZES:
            height, width = struct.unpack_from(">HH", data, position + 5)
            return width, height
    return None


def _jpeg_is_complete(data: Buffer) -> bool:
    scanned = False
    for marker, _ in _jpeg_segments(data):
        if marker == _JPEG_END:
            return scanned
        scanned = scanned or marker == _JPEG_SCAN
    return False


def _webp_size(data: Buffer) -> tuple[int, int] | None:
    """Read the first chunk's head (RFC 9649, 2.5 to 2.7)."""
    kind = bytes(data[12:16])
    if kind == b"VP8X":
        low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", data, 24)
        return (low_width | high_width << 16) + 1, (low_height | high_height << 16) + 1
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _webp_is_complete(data: Buffer) -> bool:
    whole: int
    first: int
    whole, first = struct.unpack_from("<I8xI", data, 4)
    return 12 + first <= whole and 8 + whole <= len(data)


def _gif_size(data: Buffer) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _gif_is_complete(data: Buffer) -> bool:
    return len(data) > 13 and data[len(data) - 1] == 0x3B


def _boxes(data: Buffer) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end of each top box (ISO/IEC 14496-12, 4.2)."""
    position = 0
    for _ in range(_MOST_PARTS):
        if position >= len(data):
            return
        size, kind = struct.unpack_from(">I4s", data, position)
        if size == 1:
            size = struct.unpack_from(">Q", data, position + 8)[0]
        end = position + size if size else len(data)
        yield kind, position, end
        position = max(end, position + 8)


def _avif_size(data: Buffer) -> tuple[int, int] | None:
    """Return the largest size among the image's items (``ispe``, ISO/IEC 23008-12, 6.5.3)."""
    for kind, start, end in _boxes(data):
        if kind == b"meta":
            head = bytes(data[start : min(end, start + 65_536)])
            places = itertools.islice(re.finditer(rb"ispe", head), 1000)
            sizes = [struct.unpack_from(">II", head, place.end() + 4) for place in places]
            return max(sizes, key=lambda size: size[0] * size[1], default=None)
    return None


def _avif_is_complete(data: Buffer) -> bool:
    boxes = list(_boxes(data))
    return boxes[-1][2] <= len(data) and {b"meta", b"mdat"} <= {kind for kind, _, _ in boxes}


_FORMATS = tuple(
    _Format(media_type, suffix, re.compile(magic, re.DOTALL), size, complete)
    for media_type, suffix, magic, size, complete in (
        ("image/png", ".png", rb"\x89PNG\r\n\x1a\n", _png_size, _png_is_complete),
        ("image/jpeg", ".jpg", rb"\xff\xd8\xff", _jpeg_size, _jpeg_is_complete),
        ("image/webp", ".webp", rb"RIFF.{4}WEBP", _webp_size, _webp_is_complete),
        ("image/gif", ".gif", rb"GIF8[79]a", _gif_size, _gif_is_complete),
        ("image/avif", ".avif", rb".{4}ftyp(?:.{4}){0,16}?avi[fs]", _avif_size, _avif_is_complete),
    )
)
_OTHERS = tuple(
    (media_type, suffix, re.compile(magic, re.DOTALL))
    for media_type, suffix, magic in (
        (
            "image/svg+xml",
            ".svg",
            (
                rb"(?:\xef\xbb\xbf)?+(?:\s++|<\?.*?\?>|<!--.*?-->|<!DOCTYPE\s++svg[^>\[]*+"
                rb"(?:\[[^\]]*+\]\s*+)?+>)*+<(?:\w++:)?+svg[\s/>]"
            ),
        ),
        ("application/pdf", ".pdf", rb"%PDF-"),
        ("application/postscript", ".ps", rb"%!PS|\xc5\xd0\xd3\xc6"),
        ("image/heic", ".heic", rb".{4}ftyp(?:hei[cx]|hev[cx]|mif1|msf1)"),
        ("image/tiff", ".tiff", rb"II\*\0|MM\0\*"),
        ("image/bmp", ".bmp", rb"BM.{4}\0{4}"),
        ("image/jxl", ".jxl", rb"\xff\x0a|\0{3}\x0cJXL \r\n\x87\n"),
        ("video/mp4", ".mp4", rb".{4}ftyp"),
        ("application/zip", ".zip", rb"PK\x03\x04"),
    )
)
RASTERS = frozenset(each.media_type for each in _FORMATS)
"""The types whose bytes can be checked; nothing else is put into a page."""
SUFFIXES: dict[str | None, str] = {
    **{each.media_type: each.suffix for each in _FORMATS},
    **{media_type: suffix for media_type, suffix, _ in _OTHERS},
    UNKNOWN: ".bin",
}
"""The suffix of each type."""
