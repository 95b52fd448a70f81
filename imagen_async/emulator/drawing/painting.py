"""Pictures with Pillow: a seeded scene in one of ten palettes, with the prompt on it."""

from __future__ import annotations

import io
import math
import random

from PIL import Image, ImageChops, ImageColor, ImageDraw, ImageOps

from imagen_async.emulator.drawing.caption import write
from imagen_async.emulator.drawing.png import Colour, encode, mixed

Size = tuple[int, int]
Palette = tuple[Colour, ...]

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
_GLOW = Image.radial_gradient("L").point(
    [round(max(0, 1 - far / 180) ** 2 * 190) for far in range(256)]
)


def paint(prompt: str, size: Size, digest: bytes, image_format: str) -> bytes:
    """Return the bytes of a picture; its digest decides the scene, the prompt is written on it."""
    dice = random.Random(digest)  # noqa: S311 - a picture, not a secret
    palette = dice.choice(PALETTES)
    picture = dice.choice(SCENES)(size, palette, dice)
    if min(size) >= 96:
        write(picture, prompt, mixed(palette[-2], (0, 0, 0), 0.5))
    return encoded(picture, image_format)


def encoded(picture: Image.Image, image_format: str) -> bytes:
    """Return a picture as a file."""
    if image_format == "png":
        # Pillow tries each of PNG's filters on each row; "up" alone suits skies, in half the time.
        above = Image.new("RGB", picture.size)
        above.paste(picture, (0, 1))
        change, stride = ImageChops.subtract_modulo(picture, above).tobytes(), 3 * picture.width
        rows = (b"\x02" + change[row : row + stride] for row in range(0, len(change), stride))
        return encode(picture.size, b"".join(rows))
    out = io.BytesIO()
    picture.save(out, image_format, quality=86, method=0)
    return out.getvalue()


def _gradient(size: Size, *stops: Colour) -> Image.Image:
    ramp = Image.new("RGB", (1, len(stops)))
    ramp.putdata(stops)
    # Bilinear enlarging holds the outer half of the end colours flat: cut that away.
    box = (0, 0.5, 1, len(stops) - 0.5)
    return ramp.resize((1, size[1]), Image.Resampling.BILINEAR, box).resize(size)


def _sky(size: Size, palette: Palette, dice: random.Random, horizon: float) -> Image.Image:
    """Paint a sky down to the horizon, with a sun, and stars if it is dark."""
    *sky, light, _, _ = palette
    width, height = size
    picture = Image.new("RGB", size, sky[-1])
    picture.paste(_gradient((width, max(2, round(height * horizon))), *sky), (0, 0))
    brush = ImageDraw.Draw(picture)
    for _ in range(60 if sum(sky[0]) < 300 else 0):
        spot = dice.uniform(0, width), dice.uniform(0, height * 0.3)
        brush.circle(spot, min(size) / 500 * dice.random(), mixed(sky[1], light, dice.random()))
    radius = max(1, round(min(size) * dice.uniform(0.055, 0.1)))
    x, y = round(dice.uniform(0.2, 0.8) * width), round(dice.uniform(0.16, horizon - 0.12) * height)
    picture.paste(light, (x - 5 * radius, y - 5 * radius), _GLOW.resize((10 * radius, 10 * radius)))
    disc = Image.new("L", (4 * radius, 4 * radius))
    ImageDraw.Draw(disc).ellipse((0, 0, 4 * radius - 1, 4 * radius - 1), fill=255)
    picture.paste(light, (x - radius, y - radius), disc.reduce(2))
    return picture


def _ridge(
    picture: Image.Image, dice: random.Random, base: float, swing: float, top: Colour, foot: Colour
) -> None:
    """Fill a picture below a rolling line, which swings around a height in pixels."""
    width, height = picture.size
    # A few random heights, enlarged softly: one for each eighth pixel.
    turns = math.ceil(4 * width / height) + 2
    few = Image.frombytes("L", (turns, 1), dice.randbytes(turns))
    values = few.resize((width // 8 + 2, 1), Image.Resampling.BICUBIC).tobytes()
    line = [(8 * x, base + swing * (value / 128 - 1)) for x, value in enumerate(values)]
    start = min(height - 1, int(min(y for _, y in line)))
    end = min(height, int(max(y for _, y in line)) + 1)
    # What shows above the line is laid back over the fill, at twice the size for smooth edges.
    behind = picture.crop((0, start, width, end))
    picture.paste(_gradient((width, height - start), top, foot), (0, start))
    mask = Image.new("L", (2 * width, 2 * behind.height))
    outline = [(2 * x, 2 * (y - start)) for x, y in line]
    ImageDraw.Draw(mask).polygon([(0, 0), *outline, (outline[-1][0], 0)], fill=255)
    picture.paste(behind, (0, start), mask.reduce(2))


def hills(size: Size, palette: Palette, dice: random.Random) -> Image.Image:
    """Paint hills behind hills, paler the farther they are."""
    *sky, _, near, far = palette
    height, horizon = size[1], dice.uniform(0.52, 0.62)
    picture = _sky(size, palette, dice, horizon)
    layers = dice.randint(4, 6)
    for depth in (rank / (layers - 1) for rank in range(layers)):
        tone = mixed(far, near, depth**0.8)
        base = height * (horizon + (0.96 - horizon) * depth**1.25 - 0.04)
        swing = height * (0.1 - 0.045 * depth) * dice.uniform(0.8, 1.2)
        _ridge(picture, dice, base, swing, tone, mixed(tone, sky[-1], 0.42 * (1 - depth)))
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


SCENES = (hills, lake, city)
"""What may be painted."""
