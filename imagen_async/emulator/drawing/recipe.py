"""Pictures from a recipe: the same recipe always gives the same bytes."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec

import attrs

from imagen_async.emulator.drawing.png import gradient

OTHERS = {
    "text": ("image/png", b"This is not an image.\n"),
    "svg": (
        "image/svg+xml",
        b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"><path d="M0 0h9"/></svg>',
    ),
    "pdf": ("application/pdf", b"%PDF-1.4\ntrailer <<>>\n%%EOF\n"),
    "junk": ("application/octet-stream", bytes(range(256))),
}
"""What a fault gives in place of a picture: the label and the bytes, by style."""


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


def drawn_format(style: str, image_format: str) -> str:
    """Return the format that a picture comes out in, if another is asked for."""
    return image_format if style == "full" and find_spec("PIL") is not None else "png"


def draw(recipe: Recipe) -> bytes:
    """Return the bytes of a picture; takes tens of milliseconds of a thread if it is ``full``."""
    if recipe.style in OTHERS:
        return OTHERS[recipe.style][1]
    text = f"{recipe.seed}/{recipe.index}/{recipe.prompt}"
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    if recipe.style == "full":
        try:
            from imagen_async.emulator.drawing.painting import paint
        except ImportError:
            pass  # Pillow is not installed
        else:
            return paint(recipe.prompt, recipe.size, digest, recipe.image_format)
    light = (160 + digest[0] // 3, 160 + digest[1] // 3, 160 + digest[2] // 3)
    deep = (20 + digest[3] // 2, 20 + digest[4] // 2, 20 + digest[5] // 2)
    return gradient((16, 16) if recipe.style == "tiny" else recipe.size, light, deep)


def media_type(data: bytes) -> str:
    """Return the label of a picture's bytes."""
    for kind, other in OTHERS.values():
        if data == other:
            return kind
    if data.startswith(b"\xff\xd8"):
        return "image/jpeg"
    return "image/webp" if data[8:12] == b"WEBP" else "image/png"
