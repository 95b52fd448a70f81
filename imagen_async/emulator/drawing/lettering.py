"""The prompt written on a picture, in whatever scripts fonts of this machine have."""

from __future__ import annotations

import math
import os
import re
from functools import cache, lru_cache, partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import bidirectional, category, normalize
from zlib import crc32

from PIL import Image, ImageDraw, ImageFont, ImageOps, features
from PIL.ImageFont import FreeTypeFont as Font

if TYPE_CHECKING:
    from collections.abc import Callable

    from imagen_async.emulator.drawing.png import Colour

LONGEST = 420
"""Characters of a prompt that are written."""

_FOLDERS = (
    "/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts",
    "/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts", r"C:\Windows\Fonts",
)  # fmt: skip
_UNFIT = "bold|italic|oblique|condensed|narrow|black|thin|light|medium|mono|lastresort"
"""In the names of fonts that are never asked: a plain sister has the same characters."""

_ORDER = (
    "emoji",
    "^((noto|open|liberation)sans-regular|roboto-regular|segoeui|helvetica|arial)$",
    "sans",
    "",
)
"""In the names of fonts, in the order in which they are asked."""

_BUNDLED = ""
"""In place of a file's name: the font that Pillow brings along."""

_BITMAP_SIZES = (109, 160)
"""The only sizes of the colour emoji of Noto and Apple, in pixels."""

_JOINERS = "\u200c\u200d\ufe0e\ufe0f"
_SHAPES = bool(features.check("raqm"))
_WIDE = "\u2e80-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
_PIECE = re.compile(rf"\s*(?:[{_WIDE}][\u3001-\u3002\uff01-\uff1f]*|[^\s{_WIDE}]+)")
"""What stays on one line: a word, or an ideograph with the marks that end a clause."""

_LINE, _PADDING = 1.32, 0.65
"""From line to line, and beside the text, in sizes of the font."""


@cache
def font_files() -> tuple[str, ...]:
    """Return the machine's font files in the order in which they are asked."""
    found = []
    walks = (os.walk(Path(folder).expanduser()) for folder in _FOLDERS)
    for path in (Path(base, name) for walk in walks for base, _, names in walk for name in names):
        name = path.stem.lower()
        if path.suffix.lower() in (".ttf", ".ttc", ".otf") and not re.search(_UNFIT, name):
            rank = next(rank for rank, part in enumerate(_ORDER) if re.search(part, name))
            found.append((rank, str(path)))
    return (*(path for _, path in sorted(found)), _BUNDLED)


@lru_cache(maxsize=512)
def _font(path: str, size: int, engine: ImageFont.Layout | None = None) -> tuple[Font, float]:
    """Return a font, and by how much its shapes are to be enlarged to be of a size."""
    if path == _BUNDLED:
        font = ImageFont.load_default(size)
        assert isinstance(font, Font)  # wheels bring FreeType
        return font, 1.0
    for own in (size, *_BITMAP_SIZES):
        try:
            return ImageFont.truetype(path, own, layout_engine=engine), size / own
        except OSError:
            continue
    raise OSError(f"{path} is no font.")


@lru_cache(maxsize=65536)
def font_for(character: str) -> str | None:
    """Return the file of the first font that has a character, or None."""
    if not _SHAPES and bidirectional(character) in ("R", "AL"):
        return None  # it would be written backwards
    return next((path for path in font_files() if _has(path, character)), None)


def _has(path: str, character: str) -> bool:
    if character < "\u231a" and "emoji" in path.lower():
        return False  # it has digits and signs, but odd ones
    try:
        return _shape(path, character) != _shape(path, "\U0010fffd")
    except OSError:
        return False  # not a font that FreeType reads


@lru_cache(maxsize=4096)
def _shape(path: str, character: str) -> int:
    font, _ = _font(path, 16, ImageFont.Layout.BASIC)  # raqm sets marks on dotted circles
    cell = Image.new("RGBA", (2 * int(font.size), 2 * int(font.size)))
    ImageDraw.Draw(cell).text((4, 4), character, "white", font, embedded_color=True)
    return crc32(cell.tobytes())


def readable(prompt: str) -> str:
    """Return what is written of a prompt, on one line; nothing if fonts lack most of it."""
    kept, lost = "", 0
    for character in normalize("NFC", prompt[:LONGEST]):
        if character.isspace() or category(character) == "Cc":
            kept += " "
        elif character in _JOINERS:
            kept += character * _SHAPES
        elif category(character) not in ("Cf", "Cs", "Co", "Cn"):
            # For want of an accented letter, the bare one.
            likely = (character, normalize("NFKD", character)[0])
            found = [sign for sign in likely if font_for(sign) is not None]
            kept += found[0] if found else ""
            lost += not found
    text = " ".join(kept.strip(_JOINERS).split())
    return "" if lost > len(text) / 2 else text + "…" * (len(prompt) > LONGEST)


def from_the_right(text: str) -> bool:
    """Return whether a text begins, in reading, at the right (Unicode annex 9, rule P2)."""
    return next((way for way in map(bidirectional, text) if way in ("L", "R", "AL")), "L") != "L"


def runs(text: str) -> list[tuple[str, str]]:
    """Split a readable text into pieces of one font each: pairs of font file and piece."""
    path, paths = _BUNDLED, []
    for character in text:
        # A space parts no words of one script, but that of an emoji font is too wide.
        if character not in _JOINERS and (character != " " or "emoji" in path.lower()):
            path = font_for(character) or _BUNDLED
        paths.append(path)
    grouped = groupby(zip(paths, text, strict=True), key=lambda pair: pair[0])
    return [(path, "".join(character for _, character in pairs)) for path, pairs in grouped]


def _length(text: str, size: int) -> float:
    fonts = ((*_font(path, size), piece) for path, piece in runs(text))
    return sum(font.getlength(piece) * scale for font, scale, piece in fonts)


def wrapped(text: str, length: Callable[[str], float], longest: float) -> list[str]:
    """Break a text into lines: at spaces, beside ideographs, and inside words that are too long."""
    lines = [""]
    for piece in _PIECE.findall(text):
        if length(lines[-1] + piece) <= longest:
            lines[-1] += piece
            continue
        lines.append("")
        word = piece.strip()
        for part in (word,) if length(word) <= longest else word:
            if length(lines[-1] + part) > longest and category(part[0])[0] != "M":
                lines.append("")
            lines[-1] += part
    return [line for line in lines if line]


def letter(picture: Image.Image, prompt: str, tone: Colour) -> None:
    """Write a prompt, and that the picture is emulated, on panels of a tone."""
    _panel(picture, ["emulated"], max(8, round(20 * _unit(picture))), tone, (1, 0))
    text = readable(prompt)
    if text:
        _panel(picture, *_fitted(text, picture), tone, (from_the_right(text), 1))


def _unit(picture: Image.Image) -> float:
    return math.sqrt(picture.width * picture.height) / 1024


def _fitted(text: str, picture: Image.Image) -> tuple[list[str], int]:
    """Return the lines, and the largest size, with which a text fits; it is cut at the smallest."""
    unit, height = _unit(picture), picture.height * 0.34
    lines, size = [], 0
    for points in (46, 38, 32, 26, 22, 18):
        size = max(8, round(points * unit))
        width = picture.width - 68 * unit - 2 * _PADDING * size
        lines = wrapped(text, partial(_length, size=size), width)
        if len(lines) * _LINE * size <= height and (len(lines) <= 3 or points <= 32):
            return lines, size
    most = max(1, int(height / (_LINE * size)))
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1].rstrip("… ") + "…"]
    return lines, size


def _panel(
    picture: Image.Image, lines: list[str], size: int, tone: Colour, corner: tuple[int, int]
) -> None:
    """Write lines on a panel in a corner: 0 is left and top, 1 right and foot."""
    widths = [_length(line, size) for line in lines]
    wide, high = max(widths) + 2 * _PADDING * size, (len(lines) * _LINE + _PADDING) * size
    margin = _unit(picture) * 34
    left = margin + corner[0] * (picture.width - 2 * margin - wide)
    top = margin + corner[1] * (picture.height - 2 * margin - high)
    mask = Image.new("L", (2 * round(wide), 2 * round(high)))
    box = (0, 0, mask.width - 1, mask.height - 1)
    ImageDraw.Draw(mask).rounded_rectangle(box, 0.9 * size, fill=165)
    picture.paste(tone, (round(left), round(top)), mask.reduce(2))
    for rank, line in enumerate(lines):
        x = left + _PADDING * size + corner[0] * (max(widths) - widths[rank])
        # The middle of capitals, 0.7 of the size high, is to be the middle of the line.
        y = top + (_PADDING / 2 + (rank + 0.5) * _LINE + 0.35) * size
        pieces = runs(line)
        for path, piece in reversed(pieces) if from_the_right(line) else pieces:
            x += _write(picture, x, y, piece, *_font(path, size))


def _write(picture: Image.Image, x: float, y: float, text: str, font: Font, scale: float) -> float:
    """Write a text from its foot's left end; return how long it is."""
    long, (up, down) = font.getlength(text), font.getmetrics()
    tile = Image.new("RGBA", (round(long) + 2 * up, 2 * up + down), (255, 255, 255, 0))
    brush = ImageDraw.Draw(tile)
    brush.text((up, 2 * up), text, "white", font, anchor="ls", embedded_color=True)
    tile = ImageOps.scale(tile, scale)
    picture.paste(tile, (round(x - up * scale), round(y - 2 * up * scale)), tile)
    return long * scale
