"""Fonts of this machine, and which of them can write a text."""

from __future__ import annotations

import os
import sys
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal

import attrs
from PIL import Image, ImageDraw, ImageFont, features

Font = ImageFont.FreeTypeFont

_FOLDERS = {
    "linux": ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts"),
    "darwin": ("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
    "win32": (r"C:\Windows\Fonts",),
}

_PREFERRED = (
    "inter-regular", "notosans-regular", "opensans-regular", "roboto-regular", "sfns", "segoeui",
    "helveticaneue", "helvetica", "liberationsans-regular", "arial", "dejavusans",
    "notosanscjk-regular", "pingfang", "msyh", "wqy-microhei", "wqy-zenhei", "arial unicode",
)  # fmt: skip
"""File names without suffix, lower case, in the order in which they are tried."""

_UNFIT = (
    "bold", "italic", "oblique", "condensed", "black", "thin", "light", "mono", "emoji", "symbol",
    "lastresort", "dingbat", "math", "serif", "medium", "extra",
)  # fmt: skip
"""Parts of the names of fonts that are tried last."""


@attrs.frozen
class Face:
    """A font in a size.

    Args:
        path: Its file; None for the one that Pillow brings along.
        size: In pixels.
    """

    path: str | None
    size: int

    @property
    def font(self) -> Font:
        """The font as Pillow has it."""
        return _font(self.path, self.size)

    @property
    def line(self) -> float:
        """From one line to the next, in pixels."""
        return round(self.size * 1.32)

    def sized(self, size: int) -> Face:
        """Return the same font in another size."""
        return Face(self.path, size)

    def width(self, text: str) -> float:
        """Return how long a text is, in pixels."""
        return self.font.getlength(text)

    def shown(self, text: str, missing: str) -> str:
        """Return a text with a sign in place of what the font lacks."""
        sign = missing if covers(self.path, missing) else "?"
        return "".join(character if covers(self.path, character) else sign for character in text)

    def write(
        self,
        brush: ImageDraw.ImageDraw,
        corner: tuple[float, float],
        text: str,
        colour: tuple[int, int, int],
        *,
        right: bool,
    ) -> None:
        """Write a line.

        Args:
            brush: Of the picture.
            corner: Left and top, in pixels.
            text: The line.
            colour: Red, green and blue.
            right: Whether it is read from the right.
        """
        direction: Literal["rtl", "ltr"] | None = None
        if _SHAPES:
            direction = "rtl" if right else "ltr"
        elif right:
            text = text[::-1]
        brush.text(corner, text, colour, self.font, direction=direction)


_SHAPES = bool(features.check("raqm"))


@lru_cache(maxsize=64)
def _font(path: str | None, size: int) -> Font:
    if path is None:
        font = ImageFont.load_default(size)
        assert isinstance(font, ImageFont.FreeTypeFont)  # wheels bring FreeType
        return font
    return ImageFont.truetype(path, size)


@cache
def font_files() -> tuple[str, ...]:
    """Return the machine's font files, those that suit plain text first."""
    folders = _FOLDERS.get(sys.platform, _FOLDERS["linux"])
    found = [
        str(Path(base, name))
        for folder in folders
        for base, _, names in os.walk(Path(folder).expanduser())
        for name in names
        if name.lower().endswith((".ttf", ".ttc", ".otf"))
    ]
    return tuple(sorted(found, key=_rank))


def _rank(path: str) -> tuple[int, int, str]:
    name = Path(path).stem.lower()
    if name in _PREFERRED:
        return 0, _PREFERRED.index(name), name
    return 1 + any(part in name for part in _UNFIT), 0, name


@lru_cache(maxsize=65536)
def covers(path: str | None, character: str) -> bool:
    """Return whether a font has a shape for a character."""
    if character.isspace():
        return True
    return _shape(path, character) != _shape(path, "\U0010fffd")


@lru_cache(maxsize=1024)
def _shape(path: str | None, character: str) -> bytes:
    cell = Image.new("L", (32, 32))
    ImageDraw.Draw(cell).text((6, 4), character, 255, _probe(path))
    return cell.tobytes()


@lru_cache(maxsize=256)
def _probe(path: str | None) -> Font:
    if path is None:
        return _font(None, 16)
    return ImageFont.truetype(path, 16, layout_engine=ImageFont.Layout.BASIC)


def face_for(text: str, sign: str = "") -> Face:
    """Return the font, in no particular size, that has most of a text's characters.

    Args:
        text: What is to be written.
        sign: Stands for what is missing; asked of the font only if something is.
    """
    found = "".join(sorted({character for character in text if not character.isspace()})[:80])
    path = _best(found)
    if not all(covers(path, character) for character in found):
        path = _best(found + sign)
    return Face(path, 16)


@lru_cache(maxsize=2048)
def _best(characters: str) -> str | None:
    best, most, rare = None, -1, characters
    for path in (*font_files(), None):
        try:
            if best is not None and not any(covers(path, character) for character in rare):
                continue
            count = sum(covers(path, character) for character in characters)
        except OSError:
            continue  # not a font that FreeType reads
        if count > most:
            best, most = path, count
            # A sample of what is still missing tells a font of the script from the others.
            rare = "".join(sign for sign in characters if not covers(path, sign))[:12]
        if most == len(characters):
            break
    return best
