"""Pictures with Pillow: one of five seeded scenes in one of ten palettes."""

from __future__ import annotations

import io
import math
import random
from typing import TYPE_CHECKING

from PIL import Image, ImageChops, ImageColor, ImageDraw, ImageOps

from imagen_async.emulator.drawing.lettering import letter
from imagen_async.emulator.drawing.png import encode, mixed

if TYPE_CHECKING:
    from collections.abc import Callable

    from imagen_async.emulator.drawing.png import Colour

    Size = tuple[int, int]
    Palette = tuple[Colour, ...]
    Edge = Callable[[float], float]

PALETTES: tuple[Palette, ...] = tuple(
    tuple(ImageColor.getrgb(f"#{colour}")[:3] for colour in row.split())
    for row in (
        # four of the sky from its top to the horizon, light, near ground, far ground
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


# radial_gradient is 0 in the middle and 181 at the edges; squared, light falls off softly.
_FADE = Image.radial_gradient("L").point(
    [round(max(0, 1 - value / 180) ** 2 * 165) for value in range(256)]
)


def paint(prompt: str, size: Size, digest: bytes, image_format: str) -> bytes:
    """Return the bytes of a picture; its digest decides the scene, the prompt is written on it."""
    dice = random.Random(digest)  # noqa: S311 - a picture, not a secret
    palette = dice.choice(PALETTES)
    picture = dice.choice(SCENES)(size, palette, dice)
    if min(size) >= 96:
        letter(picture, prompt, mixed(palette[-2], (0, 0, 0), 0.5))
    return encoded(picture, image_format)


def encoded(picture: Image.Image, image_format: str) -> bytes:
    """Return a picture as a file."""
    if image_format == "png":
        # Pillow tries each of PNG's filters on each row; "up" alone suits skies, in half the time.
        above = Image.new("RGB", picture.size)
        above.paste(picture, (0, 1))
        change, stride = ImageChops.subtract_modulo(picture, above).tobytes(), 3 * picture.width
        rows = (change[start : start + stride] for start in range(0, len(change), stride))
        return encode(picture.size, b"".join(b"\x02" + row for row in rows))
    out = io.BytesIO()
    picture.save(out, image_format, quality=86, method=0)
    return out.getvalue()


def _gradient(size: Size, *stops: Colour) -> Image.Image:
    ramp = Image.new("RGB", (1, len(stops)))
    ramp.putdata(stops)
    # Bilinear enlarging holds the outer half of the end colours flat: cut that away.
    box = (0, 0.5, 1, len(stops) - 0.5)
    return ramp.resize((1, size[1]), Image.Resampling.BILINEAR, box).resize(size)


def _glow(
    picture: Image.Image, x: float, y: float, reach: float, tone: Colour, flat: float = 1.0
) -> None:
    """Lay soft light, or a flat shadow, on a picture."""
    size = max(2, round(2 * reach)), max(2, round(2 * reach * flat))
    light = _FADE.resize(size, Image.Resampling.BILINEAR)
    picture.paste(tone, (round(x - reach), round(y - reach * flat)), light)


def _round(side: int) -> Image.Image:
    mask = Image.new("L", (2 * side, 2 * side))
    ImageDraw.Draw(mask).ellipse((0, 0, 2 * side - 1, 2 * side - 1), fill=255)
    return mask.reduce(2)


def _land(picture: Image.Image, edge: Edge, top: Colour, foot: Colour) -> None:
    """Fill a picture below an edge: its pixels from the top, by the share of the width."""
    width, height = picture.size
    points = [(2 * x, 2 * edge(x / width)) for x in range(0, width + 8, 8)]
    start = min(height - 1, max(0, math.floor(min(y for _, y in points) / 2)))
    mask = Image.new("L", (2 * width, 2 * (height - start)))
    outline = [(x, y - 2 * start) for x, y in points]
    outline += [(points[-1][0], 2 * height), (0, 2 * height)]
    ImageDraw.Draw(mask).polygon(outline, fill=255)
    picture.paste(_gradient((width, height - start), top, foot), (0, start), mask.reduce(2))


def _rolling(dice: random.Random, height: float, swing: float, rough: float) -> Edge:
    waves = [(rank, dice.uniform(0.8, 1.25) * rough, dice.random()) for rank in range(1, 5)]
    return lambda share: (
        height
        + swing
        * sum(
            math.sin(math.tau * (share * (rank - 0.4) * speed + turn)) / math.pow(rank, 1.35)
            for rank, speed, turn in waves
        )
    )


def _sky(size: Size, palette: Palette, dice: random.Random, horizon: float) -> Image.Image:
    """Paint a sky down to the horizon, with a sun, and stars if it is dark."""
    *sky, light, _, _ = palette
    width, height = size
    picture = Image.new("RGB", size, sky[-1])
    picture.paste(_gradient((width, max(2, round(height * horizon))), *sky), (0, 0))
    if sum(sky[0]) < 300:
        for _ in range(60):
            spot = dice.uniform(0, width), dice.uniform(0, height * 0.3)
            tone = mixed(sky[1], light, dice.random())
            ImageDraw.Draw(picture).circle(spot, min(size) / 500 * dice.random(), tone)
    side = max(2, round(min(size) * dice.uniform(0.11, 0.2)))
    x, y = dice.uniform(0.2, 0.8) * width, dice.uniform(0.16, horizon - 0.12) * height
    _glow(picture, x, y, side * 3.5, light)
    _glow(picture, x, y, side * 1.3, light)
    picture.paste(light, (round(x - side / 2), round(y - side / 2)), _round(side))
    return picture


def hills(size: Size, palette: Palette, dice: random.Random) -> Image.Image:
    """Paint hills behind hills, paler the farther they are."""
    *sky, _, near, far = palette
    width, height = size
    horizon = dice.uniform(0.52, 0.62)
    picture = _sky(size, palette, dice, horizon)
    layers = dice.randint(4, 6)
    for rank in range(layers):
        depth = rank / (layers - 1)
        tone = mixed(far, near, math.pow(depth, 0.8))
        base = height * (horizon + (0.96 - horizon) * math.pow(depth, 1.25) - 0.04)
        swing = height * (0.035 + 0.035 * (1 - depth)) * dice.uniform(0.8, 1.3)
        edge = _rolling(dice, base, swing, (1.6 - 0.8 * depth) * max(0.8, width / height))
        _land(picture, edge, tone, mixed(tone, sky[-1], 0.42 * (1 - depth)))
    return picture


def _mirrored(above: Image.Image, size: Size, water: Colour) -> Image.Image:
    """Lay still water, which mirrors what is above it, below a picture."""
    picture = Image.new("RGB", size)
    mirror = Image.blend(ImageOps.flip(above), Image.new("RGB", above.size, water), 0.4)
    picture.paste(mirror, (0, above.height))
    picture.paste(above)
    return picture


def lake(size: Size, palette: Palette, dice: random.Random) -> Image.Image:
    """Paint hills over water."""
    above = hills((size[0], math.ceil(size[1] * 0.62)), palette, dice)
    return _mirrored(above, size, palette[-2])


def city(size: Size, palette: Palette, dice: random.Random) -> Image.Image:
    """Paint a skyline with lit windows over water."""
    *sky, light, near, far = palette
    above = _sky((size[0], math.ceil(size[1] * 0.7)), palette, dice, 0.9)
    brush, unit, foot = ImageDraw.Draw(above), max(1.0, min(size) / 110), above.height
    for depth in (0.0, 0.5, 1.0):
        tone = mixed(mixed(far, sky[-1], 0.3), near, 0.2 + 0.8 * depth)
        lit, x = mixed(tone, light, 0.3 + 0.6 * depth), 0.0
        while x < size[0]:
            wide = dice.randint(5, 11)
            high = foot * dice.triangular(0.12, 0.62 - 0.2 * depth, 0.25)
            brush.rectangle((x, foot - high, x + wide * unit - 1, foot), tone)
            for row in range(2, int(high / unit) - 1, 2):
                for column in range(1, wide - 1, 2):
                    if dice.random() < 0.28 * depth:
                        left, top = x + column * unit, foot - high + row * unit
                        brush.rectangle((left, top, left + unit * 0.6, top + unit), lit)
            x += unit * (wide + dice.choice((0, 0, 1, 4)))
    return _mirrored(above, size, palette[-2])


def still_life(size: Size, palette: Palette, dice: random.Random) -> Image.Image:
    """Paint balls on a table before a lit wall."""
    *sky, _, near, far = palette
    (width, height), table = size, size[1] * dice.uniform(0.52, 0.6)
    shade, left = Image.radial_gradient("L"), dice.uniform(20, 90)
    wall = shade.resize(size, Image.Resampling.BILINEAR, (left, 90, left + 140, 230))
    picture = ImageOps.colorize(wall, mixed(sky[-1], far, 0.2), mixed(far, near, 0.7))
    _land(picture, lambda _: table, mixed(sky[-2], near, 0.3), near)
    for depth, place in sorted((dice.random(), place + 0.5) for place in range(5)):
        radius = max(1, min(size) * dice.uniform(0.05, 0.12) * (1 + 0.5 * depth))
        x, foot = width * (place + dice.uniform(-0.3, 0.3)) / 5, table + height * 0.16 * depth
        _glow(picture, x + radius * 0.5, foot, radius * 1.8, near, flat=0.28)
        tone, side = dice.choice([*sky, far]), round(radius * 2)
        ball = shade.resize((side, side), Image.Resampling.BILINEAR, (64, 70, 240, 246))
        bright, dark = mixed(tone, (255, 255, 255), 0.6), mixed(tone, near, 0.75)
        ball = ImageOps.colorize(ball, bright, dark, tone, midpoint=80)
        picture.paste(ball, (round(x - radius), round(foot - radius * 1.9)), _round(side))
    return picture


def arcs(size: Size, palette: Palette, dice: random.Random) -> Image.Image:
    """Paint paper arcs, one laid over another."""
    *sky, light, near, far = palette
    width, height = 2 * size[0], 2 * size[1]
    picture = _gradient((width, height), *sky[-2:], light)
    brush, tones = ImageDraw.Draw(picture), [*sky, far, near]
    centre = (width * dice.uniform(0.25, 0.75), height * dice.uniform(0.72, 1.0))
    reach, rings = math.hypot(width, height) * 0.62, dice.randint(6, 8)
    edge = reach / 260
    for rank in range(rings):
        radius = reach * (1 - rank / rings) * dice.uniform(0.94, 1.03)
        for step in range(5 * bool(rank)):  # the shadow of a sheet on the one below
            shade = mixed(tones[(rank - 1) % len(tones)], near, 0.25 - 0.05 * step)
            brush.circle(centre, radius + (step + 1) * edge, None, shade, round(edge) + 2)
        brush.circle(centre, radius, tones[rank % len(tones)])
    return picture.reduce(2)


SCENES = (hills, lake, city, still_life, arcs)
"""What may be painted."""
