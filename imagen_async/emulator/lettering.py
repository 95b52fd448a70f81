"""The prompt written on the picture, in whatever script a font of this machine has."""

from __future__ import annotations

import math
import unicodedata
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from imagen_async.emulator.fonts import Face, face_for

if TYPE_CHECKING:
    from imagen_async.emulator.palettes import Palette

LONGEST = 420
"""Characters of a prompt that are written."""

MARK = "emulated"
MISSING = "□"


def readable(prompt: str) -> str:
    """Return the part of a prompt that is written, on one line, without what has no shape."""
    kept = []
    for character in prompt[: 4 * LONGEST]:
        category = unicodedata.category(character)
        if character.isspace() or category == "Cc":
            kept.append(" ")
        elif category not in ("Cf", "Cs", "Cn", "Co") and not 0xFE00 <= ord(character) <= 0xFE0F:
            kept.append(character)
    text = " ".join("".join(kept).split())
    if len(text) > LONGEST or len(prompt) > 4 * LONGEST:
        text = text[:LONGEST].rstrip() + "…"
    return text


def written_right_to_left(text: str) -> bool:
    """Return whether a text begins, in reading, at the right (Unicode annex 9, rule P2)."""
    for character in text:
        direction = unicodedata.bidirectional(character)
        if direction in ("R", "AL"):
            return True
        if direction == "L":
            return False
    return False


def wrapped(text: str, face: Face, width: float) -> list[str]:
    """Break a text into lines.

    Args:
        text: Words with single spaces between them.
        face: What it is written with.
        width: The longest line, in pixels.
    """
    lines, line, used = [], "", 0.0
    space = face.width(" ")
    for word in text.split(" "):
        for piece in _pieces(word, face, width):
            gap = space if line and not piece.glued else 0.0
            if line and used + gap + piece.width > width:
                lines.append(line)
                line, used, gap = "", 0.0, 0.0
            line += (" " if gap else "") + piece.text
            used += gap + piece.width
    return [*lines, line] if line else lines


class _Piece:
    __slots__ = ("glued", "text", "width")

    def __init__(self, text: str, width: float, *, glued: bool) -> None:
        self.text = text
        self.width = width
        self.glued = glued


def _pieces(word: str, face: Face, width: float) -> list[_Piece]:
    """Split a word where a line may end inside it: between ideographs, or when it is too long."""
    whole = face.width(word)
    if whole <= width and not any(_ideographic(character) for character in word):
        return [_Piece(word, whole, glued=False)]
    return [
        _Piece(character, face.width(character), glued=place > 0)
        for place, character in enumerate(word)
    ]


def _ideographic(character: str) -> bool:
    return unicodedata.east_asian_width(character) in ("W", "F")


def letter(picture: Image.Image, prompt: str, palette: Palette) -> None:
    """Write a prompt and the mark on a picture.

    Args:
        picture: Changed in place; at least 96 pixels each way.
        prompt: Any text.
        palette: The picture's colours.
    """
    unit = math.sqrt(picture.width * picture.height) / 1024
    text = readable(prompt)
    _mark(picture, unit)
    if not text:
        return
    margin, padding = round(44 * unit), round(30 * unit)
    widest = picture.width - 2 * (margin + padding)
    face, lines = _fitted(text, widest, picture.height * 0.34, unit)
    right = written_right_to_left(text)
    widths = [face.width(line) for line in lines]
    width, height = max(widths), face.line * len(lines)
    left = picture.width - margin - padding - width if right else margin + padding
    top = picture.height - margin - padding - height
    box = (
        left - padding,
        top - padding * 0.8,
        left + width + padding,
        top + height + padding * 0.8,
    )
    _panel(picture, box, radius=22 * unit, palette=palette)
    brush = ImageDraw.Draw(picture)
    for rank, line in enumerate(lines):
        start = left + width - widths[rank] if right else left
        face.write(brush, (start, top + rank * face.line), line, (255, 255, 255), right=right)


def _fitted(text: str, width: float, height: float, unit: float) -> tuple[Face, list[str]]:
    """Return the largest face, and the lines, with which a text fits; it is cut at the smallest."""
    face = face_for(text, MISSING)
    text = face.shown(text, MISSING)
    for size in (46, 38, 32, 26, 22, 18):
        face = face.sized(max(8, round(size * unit)))
        lines = wrapped(text, face, width)
        if len(lines) * face.line <= height and (len(lines) <= 3 or size <= 32):
            return face, lines
    most = max(1, int(height // face.line))
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1].rstrip("… ") + "…"]
    return face, lines


def _panel(
    picture: Image.Image, box: tuple[float, float, float, float], radius: float, palette: Palette
) -> None:
    left, top, right, bottom = (round(edge) for edge in box)
    size = (max(2, right - left), max(2, bottom - top))
    mask = Image.new("L", (size[0] * 2, size[1] * 2))
    ImageDraw.Draw(mask).rounded_rectangle(
        (0, 0, size[0] * 2 - 1, size[1] * 2 - 1), radius * 2, fill=150
    )
    red, green, blue = palette.near
    dark = (red // 2, green // 2, blue // 2)
    picture.paste(dark, (left, top, left + size[0], top + size[1]), mask.reduce(2))


def _mark(picture: Image.Image, unit: float) -> None:
    face = face_for(MARK).sized(max(8, round(20 * unit)))
    width = face.width(MARK)
    margin, padding = 26 * unit, 12 * unit
    left, top = picture.width - margin - padding - width, margin + padding * 0.5
    box = (left - padding, margin, picture.width - margin, top + face.line + padding * 0.5)
    corner = (round(box[0]), round(box[1]))
    size = (max(2, round(box[2]) - corner[0]), max(2, round(box[3]) - corner[1]))
    mask = Image.new("L", (size[0] * 2, size[1] * 2))
    ImageDraw.Draw(mask).rounded_rectangle(
        (0, 0, size[0] * 2 - 1, size[1] * 2 - 1), size[1], fill=96
    )
    picture.paste((0, 0, 0), (*corner, corner[0] + size[0], corner[1] + size[1]), mask.reduce(2))
    brush = ImageDraw.Draw(picture)
    face.write(brush, (left, top), MARK, (255, 255, 255), right=False)
