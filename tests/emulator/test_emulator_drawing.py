"""Pictures: whole, of the exact size, always the same, and different for each prompt."""

from __future__ import annotations

import io
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imagen_async.emulator import fonts, lettering, painting, png
from imagen_async.emulator.drawing import Recipe, draw, media_type
from imagen_async.emulator.palettes import PALETTES, mixed
from imagen_async.wire.request import AspectRatio


def opened(data):
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return image


@pytest.mark.parametrize("ratio", AspectRatio)
@pytest.mark.parametrize("style", ["full", "plain"])
def test_picture_has_the_ratios_exact_size(ratio, style):
    """Each of the page's five ratios is drawn in its own pixels, as PNG."""
    image = opened(draw(Recipe("A cat", ratio.size, style=style)))
    assert (image.format, image.size, image.mode) == ("PNG", ratio.size, "RGB")


@pytest.mark.parametrize(("name", "label"), [("jpeg", "image/jpeg"), ("webp", "image/webp")])
def test_other_formats_are_what_they_say(name, label):
    """JPEG and WebP decode, and are labelled as what they are."""
    data = draw(Recipe("A cat", (256, 128), image_format=name))
    image = opened(data)
    assert (image.format.lower(), image.size, media_type(data)) == (name, (256, 128), label)


def test_tiny_pictures_are_tiny_whatever_was_asked():
    """The style for load tests does not draw the size asked."""
    data = draw(Recipe("A cat", (1408, 768), style="tiny"))
    assert opened(data).size == (16, 16)
    assert len(data) < 300


@pytest.mark.parametrize("style", ["full", "plain", "tiny"])
def test_same_recipe_gives_the_same_bytes_and_others_differ(style):
    """Prompt, index and seed all tell, and nothing else does."""
    size = (96, 96)
    base = draw(Recipe("A cat", size, style=style))
    assert draw(Recipe("A cat", size, style=style)) == base
    others = [
        Recipe("A dog", size, style=style),
        Recipe("A cat", size, index=1, style=style),
        Recipe("A cat", size, seed=1, style=style),
    ]
    assert len({base, *map(draw, others)}) == 4


@pytest.mark.parametrize("scene", sorted(set(painting.SCENES), key=lambda scene: scene.__name__))
def test_each_scene_fills_any_shape(scene):
    """Every scene paints every palette, wide or tall or a few pixels, with some contrast."""
    import random

    for rank, palette in enumerate(PALETTES):
        size = [(160, 96), (96, 160), (17, 3), (3, 17), (1, 1)][rank % 5]
        image = scene(size, palette, random.Random(rank))
        assert image.size == size
        if min(size) > 90:
            low, high = image.convert("L").getextrema()
            assert high - low > 40


TEXTS = {
    "chinese": "两只猫坐在窗台上看雨",
    "arabic": "قطة صغيرة على كرسي",
    "hebrew": "שלום עולם",
    "emoji": "A 🐉 with 👩‍🚀 and 🏳️‍🌈",
    "newlines": "one\ntwo\r\n\n\tthree\x00\x07",
    "bidi": "abc\u202edef\u200b",
    "surrogate": "lone \ud800 half",
    "one word": "x" * 10_000,
    "ten kilobytes": "a long walk " * 850,
    "blank": " \n ",
    "combining": "e" + "\u0301" * 500,
}


@pytest.mark.parametrize("name", TEXTS)
def test_any_prompt_is_drawn(name):
    """No script, length or control character keeps a picture from being made."""
    data = draw(Recipe(TEXTS[name], (256, 192)))
    assert opened(data).size == (256, 192)


@settings(max_examples=25, deadline=None)
@given(st.text(max_size=80))
def test_no_text_makes_the_painter_fail(prompt):
    """Whatever the prompt, the picture is whole."""
    assert opened(draw(Recipe(prompt, (128, 96)))).size == (128, 96)


def test_prompt_changes_the_lettering_and_the_mark_is_there():
    """The prompt is really written: its panel's pixels change with the words."""
    blank = Image.new("RGB", (512, 512), "gray")
    pictures = []
    for prompt in ("A cat in a hat", "A dog in a bog"):
        picture = blank.copy()
        lettering.letter(picture, prompt, PALETTES[0])
        pictures.append(picture)
        corner = picture.crop((256, 0, 512, 80))
        assert corner.getcolors(65536) != blank.crop((256, 0, 512, 80)).getcolors(65536)
    assert pictures[0].tobytes() != pictures[1].tobytes()
    top = (0, 0, 512, 250)
    assert pictures[0].crop(top).tobytes() == pictures[1].crop(top).tobytes()


@given(st.text(max_size=3000))
def test_written_text_is_one_short_line(prompt):
    """What is written has no control character and a bounded length."""
    text = lettering.readable(prompt)
    assert len(text) <= lettering.LONGEST + 1
    assert text == " ".join(text.split())
    assert all(character.isprintable() or character.isspace() for character in text)


@given(st.text("ab 猫", min_size=1, max_size=120), st.integers(40, 400))
def test_wrapped_lines_fit_and_lose_nothing(text, width):
    """No line is too long, and the characters are those of the text in their order."""
    words = " ".join(text.split())
    face = fonts.Face(None, 16)
    lines = lettering.wrapped(words, face, width)
    assert "".join(lines).replace(" ", "") == words.replace(" ", "")
    assert all(face.width(line) <= width + 2 for line in lines)


@pytest.mark.parametrize(
    ("text", "right"), [("hello", False), ("1. שלום", True), ("قطة cat", True), ("123", False)]
)
def test_direction_is_that_of_the_first_strong_letter(text, right):
    """Neutral characters do not decide the direction."""
    assert lettering.written_right_to_left(text) is right


def test_missing_characters_are_replaced_by_a_sign():
    """A character without a shape becomes a sign that has one."""
    face = fonts.Face(None, 16)
    assert face.shown("a\U0010fffcb", "?") == "a?b"
    assert face.shown("a\U0010fffcb", "\U0010fffb") == "a?b"  # the sign is missing too


def test_without_any_font_files_pillow_lends_its_own(monkeypatch):
    """A machine without fonts still writes Latin letters."""
    monkeypatch.setattr(fonts, "font_files", lambda: ())
    fonts._best.cache_clear()
    try:
        assert fonts.face_for("A cat").path is None
    finally:
        fonts._best.cache_clear()


def test_file_that_is_no_font_is_passed_over(monkeypatch, tmp_path):
    """A broken font file does not end the drawing."""
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"not a font")
    monkeypatch.setattr(fonts, "font_files", lambda: (str(broken),))
    fonts._best.cache_clear()
    try:
        assert fonts.face_for("A cat").path is None
    finally:
        fonts._best.cache_clear()


def test_without_pillow_the_picture_is_a_gradient(monkeypatch):
    """A missing Pillow costs the beauty, not the PNG."""
    recipe = Recipe("A cat", (1280, 896))
    for name in [name for name in sys.modules if name.split(".")[0] == "PIL"]:
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("painting", "lettering", "fonts"):
        monkeypatch.delitem(sys.modules, f"imagen_async.emulator.{name}")
    data = draw(recipe)
    monkeypatch.undo()
    assert opened(data).size == (1280, 896)
    assert data == draw(Recipe("A cat", (1280, 896), style="plain"))


colours = st.tuples(*[st.integers(0, 255)] * 3)


@given(st.integers(1, 40), st.integers(1, 40), st.lists(colours, min_size=2, max_size=4))
def test_gradient_is_a_png_from_first_to_last_colour(width, height, stops):
    """The plain PNG decodes and its rows run from the first colour to the last."""
    image = opened(png.gradient((width, height), stops))
    assert image.size == (width, height)
    assert image.getpixel((width - 1, 0)) == stops[0]
    if height > 1:
        assert image.getpixel((0, height - 1)) == stops[-1]


@given(st.text(st.characters(codec="ascii", categories=["L"]), max_size=20))
def test_comment_leaves_the_picture_as_it_was(text):
    """A PNG with a comment shows the same pixels and carries the comment."""
    data = png.gradient((4, 4), [(0, 0, 0), (255, 255, 255)])
    image = opened(png.with_comment(data, text))
    assert image.tobytes() == opened(data).tobytes()
    assert image.text == {"Comment": text}


@given(colours, colours, st.floats(0, 1))
def test_mixed_colour_lies_between(one, other, share):
    """A mix is never outside its two colours, and its ends are they."""
    for low, high, value in zip(one, other, mixed(one, other, share), strict=True):
        assert min(low, high) <= value <= max(low, high)
    assert (mixed(one, other, 0), mixed(one, other, 1)) == (one, other)


@given(st.integers(1, 9), st.integers(1, 9), st.randoms(use_true_random=False))
def test_differences_are_a_png_of_their_sums(width, height, dice):
    """Each pixel is the sum of the differences above it, modulo 256."""
    differences = dice.randbytes(3 * width * height)
    image = opened(png.from_differences((width, height), differences))
    rows, above = [], bytes(3 * width)
    for start in range(0, len(differences), 3 * width):
        row = differences[start : start + 3 * width]
        above = bytes((one + other) % 256 for one, other in zip(above, row, strict=True))
        rows.append(above)
    assert image.tobytes() == b"".join(rows)


def test_picture_leaves_the_painter_without_loss():
    """The PNG's pixels are those that were painted."""
    picture = Image.effect_noise((33, 21), 80).convert("RGB")
    assert opened(painting._encoded(picture, "png")).tobytes() == picture.tobytes()


def test_without_shaping_a_line_from_the_right_is_written_backwards(monkeypatch):
    """Where Pillow has no raqm, Hebrew still begins at the right."""
    seen = []

    class Brush:
        def text(self, _corner, text, _colour, _font, direction):
            seen.append((text, direction))

    face = fonts.Face(None, 16)
    for shapes in (False, True):
        monkeypatch.setattr(fonts, "_SHAPES", shapes)
        face.write(Brush(), (0, 0), "אב", (0, 0, 0), right=True)
        face.write(Brush(), (0, 0), "ab", (0, 0, 0), right=False)
    assert seen == [("בא", None), ("ab", None), ("אב", "rtl"), ("ab", "ltr")]
