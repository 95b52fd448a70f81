"""Pictures from a recipe: the same recipe always gives the same bytes."""

from __future__ import annotations

import hashlib

import attrs

from imagen_async.emulator import png

OTHERS = {
    "text": ("image/png", b"This is not an image.\n"),
    "svg": (
        "image/svg+xml",
        b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"><path d="M0 0h9"/></svg>',
    ),
    "pdf": ("application/pdf", b"%PDF-1.4\ntrailer <<>>\n%%EOF\n"),
    "junk": ("application/octet-stream", bytes(range(256))),
}
"""What a fault gives in the stead of a picture: the label and the bytes, by style."""


@attrs.frozen
class Recipe:
    """All that decides a picture.

    Args:
        prompt: What was asked for.
        size: Width and height in pixels.
        index: Its place among the images of one answer.
        seed: The emulator's seed plus the request's.
        style: ``full``, ``plain``, ``tiny``, or a key of ``OTHERS`` for what is no picture.
        image_format: ``png``, ``jpeg`` or ``webp``.
    """

    prompt: str
    size: tuple[int, int]
    index: int = 0
    seed: int = 0
    style: str = "full"
    image_format: str = "png"

    def digest(self) -> bytes:
        """Return 32 bytes that stand for the prompt, the index and the seed."""
        text = f"{self.seed}/{self.index}/{self.prompt}"
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def draw(recipe: Recipe) -> bytes:
    """Return the bytes of a picture; takes tens of milliseconds of a thread if it is ``full``."""
    if recipe.style in OTHERS:
        return OTHERS[recipe.style][1]
    if recipe.style == "full":
        try:
            from imagen_async.emulator.painting import paint
        except ImportError:
            pass  # Pillow is not installed
        else:
            return paint(recipe)
    size = (16, 16) if recipe.style == "tiny" else recipe.size
    return png.gradient(size, _stops(recipe.digest()))


def _stops(digest: bytes) -> list[png.Colour]:
    light = tuple(160 + byte * 95 // 255 for byte in digest[0:3])
    deep = tuple(20 + byte * 120 // 255 for byte in digest[3:6])
    return [(light[0], light[1], light[2]), (deep[0], deep[1], deep[2])]


def media_type(data: bytes) -> str:
    """Return the label of a picture's bytes."""
    for kind, other in OTHERS.values():
        if data == other:
            return kind
    if data.startswith(b"\xff\xd8"):
        return "image/jpeg"
    return "image/webp" if data[8:12] == b"WEBP" else "image/png"
