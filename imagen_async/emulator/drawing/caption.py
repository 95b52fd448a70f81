"""The prompt written on a picture, in the first font at hand that has its letters."""

from __future__ import annotations

import math
import re
from functools import cache, lru_cache
from typing import TYPE_CHECKING, cast
from unicodedata import bidirectional, category, normalize

from PIL import Image, ImageDraw, ImageFont, features

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont as Font

    from imagen_async.emulator.drawing.png import Colour

LONGEST = 420
"""Characters of a prompt that are written."""

FILES = (
    "NotoSans-Regular.ttf", "NotoSans[wght].ttf", "LiberationSans-Regular.ttf", "Arial.ttf",
    "arial.ttf", "DejaVuSans.ttf", "segoeui.ttf", "NotoSansCJK-Regular.ttc", "wqy-microhei.ttc",
    "PingFang.ttc", "Hiragino Sans GB.ttc", "AppleSDGothicNeo.ttc", "msyh.ttc", "malgun.ttf",
    "NotoSansDevanagari-Regular.ttf", "Lohit-Devanagari.ttf", "Nirmala.ttf", "Nirmala.ttc",
    "NotoSansArabic-Regular.ttf", "Arial Unicode.ttf",
)  # fmt: skip
"""Fonts of common systems, in the order in which they are asked, after Pillow's own."""

_OWN = cast("Font", ImageFont.load_default(16))  # with a size it is always scalable
_SHAPES = bool(features.check("raqm"))
_ELLIPSIS = "…"
_WIDE = "\u2e80-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"


@cache
def face(file: str) -> Font | None:
    """Return a font that Pillow finds on this machine, or None; Pillow's own for no name."""
    try:
        # Shaped, a lone vowel sign would stand on a dotted circle, as if its font had it.
        basic = ImageFont.Layout.BASIC
        return ImageFont.truetype(file, 16, layout_engine=basic) if file else _OWN
    except OSError:
        return None


@lru_cache(maxsize=65536)
def has(font: Font, sign: str) -> bool:
    """Return whether a font has a character: all that it lacks are drawn as the same box."""
    return sign.isspace() or _shape(font, sign) != _shape(font, "\U0010fffd")


def _shape(font: Font, sign: str) -> bytes:
    cell = Image.new("L", (48, 48))
    ImageDraw.Draw(cell).text((16, 16), sign, 255, font)
    return cell.tobytes()


def legible(prompt: str) -> tuple[str, Font] | None:
    """Return what is written of a prompt, on one line, and in which font; None for nothing.

    One font writes all of it, or all but signs, such as emoji; a letter is never left out.
    """
    text = normalize("NFC", " ".join(prompt[:LONGEST].split()))
    text = "".join(sign for sign in text if category(sign)[0] != "C" or sign == "\u200c")
    # The selectors ask for, or against, an emoji.
    text = re.sub("[\ufe0e\ufe0f]", "", text) + _ELLIPSIS * (len(prompt) > LONGEST)
    if not _SHAPES and any(bidirectional(sign) in ("R", "AL", "NSM") for sign in text):
        return None  # it would be written backwards, or with its marks beside its letters
    for spared in ("", "PSC"):
        needed = {sign for sign in text if category(sign)[0] not in spared}
        for font in filter(None, map(face, ("", *FILES))):
            if all(has(font, sign) for sign in needed):
                written = " ".join("".join(sign for sign in text if has(font, sign)).split())
                return (written, font) if written else None
    return None


@lru_cache(maxsize=65536)
def _length(font: Font, text: str) -> float:
    return font.getlength(text)


def wrapped(text: str, font: Font, width: float) -> list[str]:
    """Break a text into lines: at spaces, beside ideographs, and inside very long words."""
    most = max(1, int(width / font.size))  # of the widest letters, so that each piece fits a line
    piece = rf"\s*(?:[{_WIDE}][\u3001-\u3002\uff01-\uff1f]*|[^\s{_WIDE}]{{1,{most}}})"
    lines, used = [""], 0.0
    for part in re.findall(piece, text):
        used += _length(font, part)
        if used > width:
            lines.append("")
            used = _length(font, part.strip())
        lines[-1] = (lines[-1] + part).lstrip()
    return [line for line in lines if line]


def write(picture: Image.Image, prompt: str, tone: Colour) -> None:
    """Write a prompt, and that the picture is emulated, on panels of a tone."""
    _panel(picture, "emulated", _sized(_OWN, 20 * _unit(picture)), tone, (1, 0))
    found = legible(prompt)
    if found is not None:
        ways = (way for way in map(bidirectional, found[0]) if way in ("L", "R", "AL"))
        _panel(picture, *_fitted(*found, picture), tone, (next(ways, "L") != "L", 1))


def _unit(picture: Image.Image) -> float:
    return math.sqrt(picture.width * picture.height) / 1024


@lru_cache(maxsize=256)
def _sized(font: Font, points: float) -> Font:
    engine = ImageFont.Layout.BASIC if font is _OWN else ImageFont.Layout.RAQM
    return font.font_variant(size=max(8, round(points)), layout_engine=engine)


def _fitted(text: str, own: Font, picture: Image.Image) -> tuple[str, Font]:
    """Return the lines and the largest font with which a text fits; it is cut at the smallest."""
    for points in (46, 38, 32, 26, 22, 18):
        font = _sized(own, points * _unit(picture))
        lines = wrapped(text, font, picture.width - 68 * _unit(picture) - 1.4 * font.size)
        most = max(1, int(picture.height * 0.34 / (1.4 * font.size)))
        if len(lines) <= (most if points <= 32 else min(3, most)):
            return "\n".join(lines), font
    lines[most - 1 :] = [lines[most - 1][:-1].rstrip() + _ELLIPSIS * has(own, _ELLIPSIS)]
    return "\n".join(lines), font


def _panel(
    picture: Image.Image, text: str, font: Font, tone: Colour, corner: tuple[int, int]
) -> None:
    """Write lines on a panel in a corner: 0 is left and top, 1 right and foot."""
    brush, align, spacing = ImageDraw.Draw(picture), ("left", "right")[corner[0]], 0.3 * font.size
    ink = brush.multiline_textbbox((0, 0), text, font, spacing=spacing, align=align)
    pad, margin = 0.65 * font.size, 34 * _unit(picture)
    wide, high = round(ink[2] - ink[0] + 2 * pad), round(ink[3] - ink[1] + 2 * pad)
    x = round(margin + corner[0] * (picture.width - 2 * margin - wide))
    y = round(margin + corner[1] * (picture.height - 2 * margin - high))
    mask = Image.new("L", (2 * wide, 2 * high))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 2 * wide, 2 * high), font.size, fill=165)
    picture.paste(tone, (x, y), mask.reduce(2))
    place = x + pad - ink[0], y + pad - ink[1]
    brush.multiline_text(place, text, "white", font, spacing=spacing, align=align)
