"""Pictures with Pillow: a seeded scene, the prompt on a panel, and the word emulated."""

from __future__ import annotations

import io
import math
import random
from functools import cache
from typing import TYPE_CHECKING

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from imagen_async.emulator import png
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
    if image_format == "png":
        # Pillow tries each of PNG's filters on each row; "up" alone suits skies, in half the time.
        above = Image.new("RGB", picture.size)
        above.paste(picture, (0, 1))
        return png.from_differences(
            picture.size, ImageChops.subtract_modulo(picture, above).tobytes()
        )
    out = io.BytesIO()
    if image_format == "jpeg":
        picture.save(out, "JPEG", quality=88)
    else:
        picture.save(out, "WEBP", quality=85, method=0)
    return out.getvalue()


def _gradient(size: tuple[int, int], stops: Sequence[Colour]) -> Image.Image:
    ramp = Image.new("RGB", (1, len(stops)))
    ramp.putdata(list(stops))
    # Bilinear enlarging holds the outer half of the end colours flat: cut that away.
    box = (0, 0.5, 1, len(stops) - 0.5)
    column = ramp.resize((1, size[1]), Image.Resampling.BILINEAR, box)
    return column.resize(size, Image.Resampling.NEAREST)


Box = tuple[int, int, int, int]


def _visible(picture: Image.Image, box: Box) -> Box | None:
    left, top = max(0, box[0]), max(0, box[1])
    right, bottom = min(picture.width, box[2]), min(picture.height, box[3])
    return (left, top, right, bottom) if left < right and top < bottom else None


def _around(centre: tuple[float, float], half: float, high: float) -> Box:
    width, height = max(2, round(half * 2)), max(2, round(high * 2))
    left, top = round(centre[0] - half), round(centre[1] - high)
    return left, top, left + width, top + height


@cache
def _fade(power: int) -> Image.Image:
    # radial_gradient is 0 in the middle and 255 in the corners; squared, light falls off softly.
    table = [round(max(0, 1 - value / 180) ** 2 * 255 * power / 100) for value in range(256)]
    return Image.radial_gradient("L").point(table)


def _glow(
    picture: Image.Image,
    centre: tuple[float, float],
    reach: float | tuple[float, float],
    colour: Colour,
    power: float,
) -> None:
    """Lay soft light on a picture.

    Args:
        picture: Changed in place.
        centre: In pixels.
        reach: In pixels, to where the light has faded; to the side and up, if they differ.
        colour: Of the light.
        power: Opacity at the centre, from 0 to 1.
    """
    half, high = reach if isinstance(reach, tuple) else (reach, reach)
    box = _around(centre, half, high)
    seen = _visible(picture, box)
    if seen is None:
        return
    across, down = 256 / (box[2] - box[0]), 256 / (box[3] - box[1])
    part = (
        (seen[0] - box[0]) * across,
        (seen[1] - box[1]) * down,
        (seen[2] - box[0]) * across,
        (seen[3] - box[1]) * down,
    )
    size = (seen[2] - seen[0], seen[3] - seen[1])
    mask = _fade(round(power * 100)).resize(size, Image.Resampling.BILINEAR, part)
    picture.paste(colour, seen, mask)


def _disc(
    picture: Image.Image, centre: tuple[float, float], radius: float, colour: Colour, power: float
) -> None:
    box = _around(centre, radius, radius)
    seen = _visible(picture, box)
    if seen is None:
        return
    mask = Image.new("L", ((seen[2] - seen[0]) * SMOOTH, (seen[3] - seen[1]) * SMOOTH))
    left, top = (box[0] - seen[0]) * SMOOTH, (box[1] - seen[1]) * SMOOTH
    right, bottom = (box[2] - seen[0]) * SMOOTH - 1, (box[3] - seen[1]) * SMOOTH - 1
    ImageDraw.Draw(mask).ellipse((left, top, right, bottom), fill=round(255 * power))
    picture.paste(colour, seen, mask.reduce(SMOOTH))


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
    waves = []
    for rank in range(4):
        size = swing / math.pow(rank + 1, 1.35)
        waves.append((size, (rank + 0.6) * rough * dice.uniform(0.8, 1.25), dice.random()))

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
    waves = dice.randint(3, 5)
    for rank in range(waves):
        depth = (rank + 1) / waves
        colour = mixed(far, palette.near, 0.35 + 0.65 * depth)
        crest = mixed(colour, palette.sky[-2], 0.22 * (1 - depth) + 0.05)
        base = height * (horizon + (0.97 - horizon) * (0.18 + 0.82 * depth**1.3))
        edge = _rolling(dice, base, height * 0.012 * (0.5 + depth), 2.6 - depth)
        _land(picture, edge, (crest, mixed(colour, palette.near, 0.5)))
    _glitter(picture, (x * width, height * horizon), palette, dice)
    return picture


def _glitter(
    picture: Image.Image, start: tuple[float, float], palette: Palette, dice: random.Random
) -> None:
    """Lay the light's path on the water, from below the sun towards the viewer."""
    width, height = picture.size
    _glow(picture, (start[0], start[1]), (width * 0.3, height * 0.1), palette.light, 0.3)
    for _ in range(64):
        depth = dice.random() ** 1.5
        y = start[1] + height * (0.008 + 0.42 * depth)
        spread = width * (0.025 + 0.13 * depth)
        x = start[0] + dice.triangular(-spread, spread, 0)
        reach = (spread * dice.uniform(0.25, 0.8), height * (0.0022 + 0.0055 * depth))
        _glow(picture, (x, y), reach, palette.light, 0.9 - 0.5 * depth)


def bokeh(size: tuple[int, int], palette: Palette, dice: random.Random) -> Image.Image:
    """Paint out-of-focus lights over a dim ground."""
    width, height = size
    ground = mixed(palette.near, palette.far, 0.55)
    picture = _gradient(size, [palette.near, ground, mixed(palette.near, ground, 0.4)])
    tones = [*palette.sky[1:], palette.light]
    for _ in range(9):
        centre = (dice.uniform(0, width), dice.uniform(0, height))
        _glow(picture, centre, max(size) * dice.uniform(0.25, 0.5), dice.choice(tones), 0.3)
    for rank in range(34):
        radius = min(size) * dice.uniform(0.015, 0.03 + 0.075 * (rank % 3) / 2)
        centre = (dice.uniform(0, width), dice.triangular(0, height, height * 0.45))
        colour, power = dice.choice(tones), dice.uniform(0.16, 0.5)
        _disc(picture, centre, radius, colour, power)
        _disc(picture, centre, radius * 0.93, mixed(colour, palette.far, 0.3), power * 0.35)
    return picture


def arcs(size: tuple[int, int], palette: Palette, dice: random.Random) -> Image.Image:
    """Paint paper arcs, one laid over another."""
    width, height = size[0] * SMOOTH, size[1] * SMOOTH
    ground = [*palette.sky[-2:], palette.light]
    large = _gradient((width, height), ground)
    brush = ImageDraw.Draw(large)
    tones = [palette.sky[0], *palette.sky[1:], palette.far, palette.near]
    for _ in range(3):
        spot = (width * dice.uniform(0.05, 0.95), height * dice.uniform(0.05, 0.4))
        brush.circle(spot, min(width, height) * dice.uniform(0.02, 0.07), dice.choice(tones))
    x, y = width * dice.uniform(0.25, 0.75), height * dice.uniform(0.72, 1.0)
    reach = math.hypot(width, height) * 0.62
    rings = dice.randint(6, 8)
    below, edge = ground[0], reach / 260
    for rank in range(rings):
        radius = reach * (1 - rank / rings) * dice.uniform(0.94, 1.03)
        colour = tones[rank % len(tones)]
        for step in range(1, 6 * bool(rank)):  # the shadow that a sheet throws on the one below
            shade = mixed(below, palette.near, 0.24 - 0.04 * step)
            brush.circle((x, y), radius + step * edge, outline=shade, width=round(edge) + 2)
        brush.circle((x, y), radius, colour)
        below = colour
    return large.reduce(SMOOTH)


def aurora(size: tuple[int, int], palette: Palette, dice: random.Random) -> Image.Image:
    """Paint curtains of light above a dark ridge."""
    width, height = size
    small = (max(2, width // SOFT), max(2, height // SOFT))
    night = mixed(palette.near, (0, 0, 0), 0.35)
    picture = _gradient(small, [night, mixed(night, palette.sky[0], 0.5), palette.sky[0]])
    for tone in (*palette.sky[1:], palette.sky[1], palette.sky[-2]):
        veil = _veil(small, dice)
        light = Image.new("RGB", small, tone)
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


def _veil(size: tuple[int, int], dice: random.Random) -> Image.Image:
    """Return the brightness of one curtain: sharp at its foot, fading upwards."""
    width, height = size
    foot = _rolling(dice, height * dice.uniform(0.3, 0.66), height * 0.11, 1.3)
    tall = height * dice.uniform(0.22, 0.4)
    folds = _rolling(dice, 0.6, 0.28, 5.0)
    veil = Image.new("L", size)
    brush = ImageDraw.Draw(veil)
    steps = 7
    for x in range(width):
        share = x / width
        low, strength = foot(share), 165 * min(1.0, max(0.15, folds(share)))
        for step in range(steps):
            top = low - tall * (step + 1) / steps
            fill = round(strength * (1 - step / steps) ** 1.6)
            brush.line((x, top, x, low - tall * step / steps), fill=fill)
    return veil.filter(ImageFilter.GaussianBlur(max(1, height / 64)))


SCENES = (hills, sea, hills, bokeh, arcs, aurora)
"""What may be painted; hills twice as often."""
