"""Pictures with Pillow: a seeded landscape, the prompt on a panel, and a mark that it is emulated."""

from __future__ import annotations

import io
import math
import random
from typing import TYPE_CHECKING

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from imagen_async.emulator.lettering import letter
from imagen_async.emulator.palettes import PALETTES, Palette, mixed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imagen_async.emulator.drawing import Recipe
    from imagen_async.emulator.png import Colour

SOFT = 8
"""Glows and gradients are painted this many times smaller, then enlarged."""

SMOOTH = 2
"""Edges are painted this many times larger, then reduced."""


def paint(recipe: Recipe) -> bytes:
    """Return the bytes of a recipe's picture."""
    dice = random.Random(recipe.digest())  # noqa: S311 - a picture, not a secret
    palette = dice.choice(PALETTES)
    picture = dice.choice(SCENES)(recipe.size, palette, dice)
    if min(recipe.size) >= 96:
        letter(picture, recipe.prompt, palette)
    return _encoded(picture, recipe.image_format)


def _encoded(picture: Image.Image, image_format: str) -> bytes:
    out = io.BytesIO()
    if image_format == "png":
        # Level 2 of zlib-ng is both faster and smaller than level 1; run lengths suit flat areas.
        picture.save(out, "PNG", compress_level=2)
    elif image_format == "jpeg":
        picture.save(out, "JPEG", quality=88)
    else:
        picture.save(out, "WEBP", quality=85, method=0)
    return out.getvalue()


def _gradient(size: tuple[int, int], stops: Sequence[Colour]) -> Image.Image:
    ramp = Image.new("RGB", (1, len(stops)))
    ramp.putdata(list(stops))
    # Bilinear enlarging holds the outer half of the end colours flat: cut that away.
    box = (0, 0.5, 1, len(stops) - 0.5)
    return ramp.resize(size, Image.Resampling.BILINEAR, box)


def _glow(
    picture: Image.Image, centre: tuple[float, float], radius: float, colour: Colour, power: float
) -> None:
    """Lay soft light on a picture.

    Args:
        picture: Changed in place.
        centre: In pixels.
        radius: In pixels, to where the light has faded.
        colour: Of the light.
        power: Opacity at the centre, from 0 to 1.
    """
    fade = _FADE.point(lambda value: round(value * power))
    side = max(2, round(radius * 2))
    small = fade.resize((side, side), Image.Resampling.BILINEAR)
    corner = (round(centre[0] - radius), round(centre[1] - radius))
    picture.paste(colour, (*corner, corner[0] + side, corner[1] + side), small)


def _fade() -> Image.Image:
    # radial_gradient is 0 in the middle and 255 in the corners; squared, light falls off softly.
    return Image.radial_gradient("L").point(lambda value: round(max(0, 1 - value / 180) ** 2 * 255))


_FADE = _fade()


def _disc(
    picture: Image.Image, centre: tuple[float, float], radius: float, colour: Colour, power: float
) -> None:
    side = max(2, round(radius * 2))
    mask = Image.new("L", (side * SMOOTH, side * SMOOTH))
    ImageDraw.Draw(mask).ellipse(
        (0, 0, side * SMOOTH - 1, side * SMOOTH - 1), fill=round(255 * power)
    )
    mask = mask.reduce(SMOOTH)
    corner = (round(centre[0] - radius), round(centre[1] - radius))
    picture.paste(colour, (*corner, corner[0] + side, corner[1] + side), mask)


def _land(
    picture: Image.Image, edge: Callable[[float], float], colours: tuple[Colour, Colour]
) -> None:
    """Fill a picture below an edge.

    Args:
        picture: Changed in place.
        edge: The height of the edge in pixels from the top, by the share of the width.
        colours: At the edge, and at the picture's foot.
    """
    width, height = picture.size
    step = 8
    points = [(x, edge(x / width)) for x in range(0, width + step, step)]
    top = max(0, math.floor(min(y for _, y in points)))
    low = min(height, math.ceil(max(y for _, y in points)) + 1)
    if top >= height:
        return
    low = max(low, top + 1)
    fill = _gradient((width, height - top), colours)
    mask = Image.new("L", (width * SMOOTH, (low - top) * SMOOTH))
    outline = [(x * SMOOTH, (y - top) * SMOOTH) for x, y in points]
    foot = (low - top) * SMOOTH
    ImageDraw.Draw(mask).polygon(
        [*outline, (outline[-1][0], foot), (outline[0][0], foot)], fill=255
    )
    picture.paste(fill.crop((0, 0, width, low - top)), (0, top), mask.reduce(SMOOTH))
    if low < height:
        picture.paste(fill.crop((0, low - top, width, height - top)), (0, low))


def _rolling(
    dice: random.Random, height: float, swing: float, rough: float
) -> Callable[[float], float]:
    waves = [
        (swing / (rank + 1) ** 1.35, (rank + 0.6) * rough * dice.uniform(0.8, 1.25), dice.random())
        for rank in range(4)
    ]

    def edge(share: float) -> float:
        return height + sum(
            size * math.sin(2 * math.pi * (share * speed + turn)) for size, speed, turn in waves
        )

    return edge


def _sky(size: tuple[int, int], palette: Palette, horizon: float) -> Image.Image:
    width, height = size
    sky = _gradient((width, max(2, round(height * horizon))), palette.sky)
    picture = Image.new("RGB", size, palette.sky[-1])
    picture.paste(sky, (0, 0))
    return picture


def _sun(picture: Image.Image, palette: Palette, dice: random.Random, low: float) -> float:
    """Paint the sun or moon; return its place as a share of the width."""
    width, height = picture.size
    x, y = dice.uniform(0.2, 0.8), dice.uniform(0.16, low)
    radius = min(size for size in picture.size) * dice.uniform(0.055, 0.1)
    centre = (x * width, y * height)
    _glow(picture, centre, radius * 7, palette.light, 0.55)
    _glow(picture, centre, radius * 2.6, palette.light, 0.7)
    _disc(picture, centre, radius, palette.light, 0.96)
    return x


def _stars(picture: Image.Image, palette: Palette, dice: random.Random) -> None:
    if sum(palette.sky[0]) > 300:
        return
    width, height = picture.size
    for _ in range(70):
        x, y = dice.uniform(0, width), dice.uniform(0, height * 0.42)
        _glow(picture, (x, y), dice.uniform(1.5, 4.5), palette.light, dice.uniform(0.3, 0.9))


def hills(size: tuple[int, int], palette: Palette, dice: random.Random) -> Image.Image:
    """Paint hills behind hills, paler the farther they are."""
    width, height = size
    horizon = dice.uniform(0.52, 0.62)
    picture = _sky(size, palette, horizon)
    _stars(picture, palette, dice)
    _sun(picture, palette, dice, horizon - 0.12)
    layers = dice.randint(4, 6)
    for rank in range(layers):
        depth = rank / (layers - 1)
        colour = mixed(palette.far, palette.near, depth**0.8)
        haze = mixed(colour, palette.sky[-1], 0.42 * (1 - depth))
        base = height * (horizon + (0.96 - horizon) * depth**1.25)
        swing = height * (0.035 + 0.035 * (1 - depth)) * dice.uniform(0.8, 1.3)
        rough = (1.6 - 0.8 * depth) * max(0.8, width / height)
        _land(picture, _rolling(dice, base - height * 0.04, swing, rough), (colour, haze))
    return picture


def sea(size: tuple[int, int], palette: Palette, dice: random.Random) -> Image.Image:
    """Paint the sun over waves."""
    width, height = size
    horizon = dice.uniform(0.46, 0.56)
    picture = _sky(size, palette, horizon)
    x = _sun(picture, palette, dice, horizon - 0.05)
    far = mixed(palette.far, palette.sky[-1], 0.35)
    _land(picture, lambda _: height * horizon, (far, palette.near))
    for _ in range(26):  # the light's path on the water
        depth = dice.random() ** 1.4
        y = height * (horizon + 0.01 + (0.4 * depth))
        reach = width * (0.03 + 0.1 * depth)
        at = x * width + dice.uniform(-1, 1) * reach * 0.8
        half = reach * dice.uniform(0.3, 1.0)
        _dash(picture, (at, y), half, 1 + 5 * depth, palette.light, 0.5 * (1 - 0.6 * depth))
    waves = dice.randint(3, 5)
    for rank in range(waves):
        depth = (rank + 1) / waves
        colour = mixed(far, palette.near, 0.35 + 0.65 * depth)
        crest = mixed(colour, palette.light, 0.22 * (1 - depth) + 0.06)
        base = height * (horizon + (0.97 - horizon) * (0.18 + 0.82 * depth**1.3))
        edge = _rolling(dice, base, height * 0.012 * (0.5 + depth), 2.6 - depth)
        _land(picture, edge, (crest, mixed(colour, palette.near, 0.5)))
    return picture


def _dash(
    picture: Image.Image,
    centre: tuple[float, float],
    half: float,
    thick: float,
    colour: Colour,
    power: float,
) -> None:
    width, height = max(2, round(half * 2)), max(2, round(thick * 2))
    mask = _FADE.point(lambda value: round(value * power)).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    corner = (round(centre[0] - half), round(centre[1] - thick))
    picture.paste(colour, (*corner, corner[0] + width, corner[1] + height), mask)


def bokeh(size: tuple[int, int], palette: Palette, dice: random.Random) -> Image.Image:
    """Paint out-of-focus lights over a dim ground."""
    width, height = size
    picture = _gradient(size, [palette.near, mixed(palette.near, palette.far, 0.7), palette.far])
    tones = [*palette.sky[1:], palette.light]
    for _ in range(9):
        centre = (dice.uniform(0, width), dice.uniform(0, height))
        _glow(picture, centre, max(size) * dice.uniform(0.25, 0.5), dice.choice(tones), 0.4)
    for rank in range(34):
        radius = min(size) * dice.uniform(0.015, 0.03 + 0.075 * (rank % 3) / 2)
        centre = (dice.uniform(0, width), dice.triangular(0, height, height * 0.45))
        colour, power = dice.choice(tones), dice.uniform(0.16, 0.5)
        _disc(picture, centre, radius, colour, power)
        _disc(picture, centre, radius * 0.93, mixed(colour, palette.far, 0.3), power * 0.35)
    return picture


def arcs(size: tuple[int, int], palette: Palette, dice: random.Random) -> Image.Image:
    """Paint paper arcs, one laid over another."""
    width, height = size
    picture = _gradient(size, [*palette.sky[-2:], palette.light])
    tones = [palette.sky[0], *palette.sky[1:], palette.far, palette.near]
    centre = (width * dice.uniform(0.25, 0.75), height * dice.uniform(0.72, 1.0))
    reach = math.hypot(width, height) * 0.62
    rings = dice.randint(6, 8)
    for rank in range(rings):
        radius = reach * (1 - rank / rings) * dice.uniform(0.94, 1.03)
        _glow(picture, (centre[0], centre[1] + radius * 0.03), radius * 1.12, palette.near, 0.25)
        _disc(picture, centre, radius, tones[rank % len(tones)], 1.0)
    for _ in range(3):
        spot = (width * dice.uniform(0.05, 0.95), height * dice.uniform(0.05, 0.4))
        _disc(picture, spot, min(size) * dice.uniform(0.02, 0.07), dice.choice(tones), 0.85)
    return picture


def aurora(size: tuple[int, int], palette: Palette, dice: random.Random) -> Image.Image:
    """Paint curtains of light above a dark ridge."""
    width, height = size
    small = (max(2, width // SOFT), max(2, height // SOFT))
    picture = _gradient(small, [mixed(palette.near, palette.sky[0], 0.5), palette.sky[0]])
    for _ in range(5):
        edge = _rolling(dice, small[1] * dice.uniform(0.35, 0.6), small[1] * 0.12, 1.1)
        veil = Image.new("L", small)
        brush = ImageDraw.Draw(veil)
        for x in range(small[0]):
            foot = edge(x / small[0])
            top = foot - small[1] * dice.uniform(0.2, 0.34)
            brush.line((x, top, x, foot), fill=150)
        veil = veil.filter(ImageFilter.GaussianBlur(max(1, small[1] / 22)))
        light = Image.new("RGB", small, dice.choice([*palette.sky[1:], palette.light]))
        picture = ImageChops.screen(
            picture, ImageChops.multiply(light, Image.merge("RGB", (veil, veil, veil)))
        )
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    _stars(picture, palette, dice)
    for depth in (0.0, 0.5, 1.0):
        tone = mixed(mixed(palette.far, palette.near, 0.5), palette.near, depth)
        foot = mixed(tone, palette.near, 0.6)
        edge = _rolling(dice, height * (0.72 + 0.1 * depth), height * 0.04, 2.2 - depth)
        _land(picture, edge, (tone, foot))
    return picture


SCENES = (hills, sea, hills, bokeh, arcs, aurora)
"""What may be painted; hills twice as often."""
