"""Colours that go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from imagen_async.emulator.png import Colour


@attrs.frozen
class Palette:
    """The colours of one picture.

    Args:
        sky: From the top of the sky to the horizon.
        light: Sun, moon and highlights.
        near: The ground at the viewer's feet.
        far: The ground at the horizon.
    """

    sky: tuple[Colour, ...]
    light: Colour
    near: Colour
    far: Colour


def _hex(text: str) -> Colour:
    return int(text[0:2], 16), int(text[2:4], 16), int(text[4:6], 16)


def _palette(row: str) -> Palette:
    *sky, light, near, far = (_hex(text) for text in row.split())
    return Palette(tuple(sky), light, near, far)


PALETTES = tuple(
    _palette(row)
    for row in (
        # sky from top to horizon, light, near, far
        "2b2d5b 7d4f8b e58a7b fcd9a4 fff1cf 1f1d3d b5667f",  # dusk
        "3f7cac 8fc1d4 d9ecec fdf3dc fffbe8 1d4e4a 9cc5bd",  # clear morning
        "0f1c3f 22406f 4a7a9c a9c6c9 f4f6e6 0a1426 3f6a86",  # moonlit
        "f2a65a f6c28b f9dfbd fdf1dd ffffff 6b2d2b e09f67",  # desert noon
        "264653 2a7f86 7cc0a9 e9e3b4 fff6d5 12343b 6fae9c",  # lagoon
        "43305f 8d5a97 d98cb3 f8c8c4 fff0e6 2a1b3d b574a4",  # heather
        "5b7fa3 a7bfd3 e3e4e6 f7ece1 ffffff 2f3e46 a3b1b7",  # winter
        "7a2e3a c4524a f0955f fbd38a fff3c9 2d1420 b0564f",  # ember
        "1e3d34 3f7d5b a3c585 eef0c0 fffde0 10261d 7fae73",  # forest light
        "284b8f 5a8fd0 a8cdee f4e6ee fff4f8 1b2f5e 8aa5d4",  # high air
    )
)


def mixed(one: Colour, other: Colour, share: float) -> Colour:
    """Return the colour on the way from one to another.

    Args:
        one: At share 0.
        other: At share 1.
        share: From 0 to 1.
    """
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue
