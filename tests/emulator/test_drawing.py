"""Pictures: whole, of the exact size, always the same, and different for each prompt."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont

from imagen_async.emulator.drawing import caption, painting, png
from imagen_async.emulator.drawing.recipe import Recipe, draw, media_type
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


recipes = st.builds(
    Recipe,
    st.text(max_size=80),
    st.tuples(st.integers(1, 200), st.integers(1, 200)),
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from(["full", "plain"]),
    st.sampled_from(["png", "jpeg", "webp"]),
)


@settings(max_examples=60, deadline=None)
@given(recipes)
def test_any_recipe_gives_one_whole_picture_of_its_size(recipe):
    """Whatever is asked, Pillow decodes the exact size and format, and the bytes are the same."""
    data = draw(recipe)
    image = opened(data)
    assert image.size == recipe.size
    assert image.format.lower() == (recipe.image_format if recipe.style == "full" else "png")
    assert media_type(data) == f"image/{image.format.lower()}"
    assert draw(recipe) == data


def test_tiny_pictures_are_tiny_whatever_was_asked():
    """The style for load tests does not draw the size asked."""
    data = draw(Recipe("A cat", (1408, 768), style="tiny"))
    assert opened(data).size == (16, 16)
    assert len(data) < 300


@pytest.mark.parametrize("style", ["full", "plain", "tiny"])
def test_prompt_index_and_seed_each_change_the_picture(style):
    """Each of them tells, so that no two images of a batch are the same by chance."""
    size = (96, 96)
    recipes = [
        Recipe("A cat", size, style=style),
        Recipe("A dog", size, style=style),
        Recipe("A cat", size, index=1, style=style),
        Recipe("A cat", size, seed=1, style=style),
    ]
    assert len(set(map(draw, recipes))) == 4


def test_another_process_draws_the_same_bytes():
    """Neither the hash seed of a process nor what it drew before changes a picture."""
    program = (
        "import hashlib; from imagen_async.emulator.drawing.recipe import Recipe, draw\n"
        "print(hashlib.sha256(draw(Recipe('A fox', (160, 120)))).hexdigest())"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(said) == 1


@pytest.mark.parametrize("scene", painting.SCENES)
def test_each_scene_fills_any_shape(scene):
    """Every scene paints every palette, wide or tall or a few pixels, with some contrast."""
    for rank, palette in enumerate(painting.PALETTES):
        size = [(160, 96), (96, 160), (17, 3), (3, 17), (1, 1)][rank % 5]
        image = scene(size, palette, random.Random(rank))
        assert (image.size, image.mode) == (size, "RGB")
        if min(size) > 90:
            low, high = image.convert("L").getextrema()
            assert high - low > 40


@pytest.mark.parametrize("size", [(2048, 96), (96, 2048), (1, 4096), (4096, 1)])
def test_extreme_ratios_have_their_exact_size(size):
    """A strip is drawn as a strip, with its prompt if it is high enough."""
    assert all(opened(draw(Recipe(f"A cat {n}", size))).size == size for n in range(6))


TEXTS = {
    "chinese": "两只猫坐在窗台上看雨",
    "arabic": "قطة صغيرة على كرسي",
    "hindi": "एक बिल्ली खिड़की पर बैठी है",
    "emoji": "A 🐉 with 👩‍🚀 and 🏳️‍🌈",
    "newlines": "one\ntwo\r\n\n\tthree\x00\x07",
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


def test_prompt_changes_the_caption_and_the_mark_is_there():
    """The prompt is really written: its panel's pixels change with the words."""
    blank = Image.new("RGB", (512, 512), "gray")
    pictures = []
    for prompt in ("A cat in a hat", "A dog in a bog"):
        picture = blank.copy()
        caption.write(picture, prompt, (0, 0, 0))
        pictures.append(picture)
        corner = picture.crop((256, 0, 512, 80))
        assert corner.getcolors(65536) != blank.crop((256, 0, 512, 80)).getcolors(65536)
    assert pictures[0].tobytes() != pictures[1].tobytes()
    top = (0, 0, 512, 250)
    assert pictures[0].crop(top).tobytes() == pictures[1].crop(top).tobytes()


@settings(deadline=None)
@given(st.text(max_size=1000))
def test_written_text_is_one_short_line_that_its_font_has(prompt):
    """What is written has no control character, a bounded length, and no box in it."""
    found = caption.legible(prompt)
    if found is not None:
        text, font = found
        assert 0 < len(text) <= caption.LONGEST + 1
        assert text == " ".join(text.split())
        assert all(caption.has(font, sign) for sign in text)


def test_long_prompt_is_cut_with_an_ellipsis():
    """A caption has a bound, and says that the prompt went on."""
    assert caption.legible("x" * 10_000)[0] == "x" * caption.LONGEST + "…"


def test_signs_that_steer_a_text_are_not_written_even_where_a_font_has_them(monkeypatch):
    """Overrides of the direction, private signs and controls go; Persian keeps its non-joiner."""
    monkeypatch.setattr(caption, "has", lambda font, sign: True)
    written, _ = caption.legible("abc\u202edef\u200b \ue000ghi\x07\ud800jkl\u200cm")
    assert written == "abcdef ghijkl\u200cm"


@pytest.fixture
def bare(monkeypatch):
    """A machine with no fonts but Pillow's own."""
    monkeypatch.setattr(caption, "FILES", ("no-such-font.ttf",))


@pytest.mark.parametrize(
    ("prompt", "written"),
    [
        ("A cat", "A cat"),
        ("🦊🌲 a fox and a tree", "a fox and a tree"),
        ("👩‍🚀 in a ☂️", "in a"),
        ("abc\u202edef\u200b \ue000ghi\x07\ud800jkl", "abcdef ghijkl"),
        ("a \x07 b", "a b"),
        ("一只熊猫在竹林里喝茶 4K", None),
        ("a café", None),
        ("🦊", None),
        (" \n ", None),
    ],
)
def test_what_no_font_has_is_never_a_box(bare, prompt, written):
    """Signs that are lacking go; a prompt that would lack a letter is not written at all."""
    found = caption.legible(prompt)
    assert (found[0] if found else None) == written
    assert opened(draw(Recipe(prompt, (256, 192)))).size == (256, 192)


SCRIPTS = ("Кошка на окне", *(TEXTS[name] for name in ("chinese", "arabic", "hindi")))


@pytest.mark.parametrize("prompt", SCRIPTS)
def test_other_scripts_are_written_whole_where_a_font_has_them(prompt):
    """A font of the machine writes every letter, or there is no caption."""
    found = caption.legible(prompt)
    fonts = [font for font in map(caption.face, caption.FILES) if font]
    able = any(all(caption.has(font, sign) for sign in prompt) for font in fonts)
    assert (found[0] if found else None) == (prompt if able else None)


def test_font_with_the_signs_too_is_better_than_one_with_the_letters(monkeypatch):
    """A later font that has all is taken before an earlier one that lacks a dash."""
    monkeypatch.setattr(caption, "face", lambda file: file or "own")
    monkeypatch.setattr(caption, "FILES", ("plain", "rich", "dingbats"))
    monkeypatch.setattr(
        caption, "has", lambda font, sign: sign in {"own": "ab ", "rich": "ab —"}.get(font, "")
    )
    assert caption.legible("a — b") == ("a — b", "rich")
    assert caption.legible("a → b") == ("a b", "own")
    assert caption.legible("a ж b") is None


def test_mark_is_not_taken_as_there_for_its_dotted_circle():
    """A font that has no letters of a script is not said to have its vowel signs."""
    for font in filter(None, map(caption.face, ("", *caption.FILES))):
        for mark, letter in ("\u093fक", "\u0e34ก"):
            assert caption.has(font, letter) or not caption.has(font, mark)


def test_without_shaping_scripts_that_need_it_are_left_out(monkeypatch):
    """Where Pillow has no raqm, Hebrew would be written backwards: it is not written."""
    monkeypatch.setattr(caption, "_SHAPES", False)
    monkeypatch.setattr(caption, "has", lambda font, sign: True)
    assert caption.legible("a שלום") is None
    assert caption.legible(TEXTS["hindi"]) is None
    assert caption.legible("abc 猫") is not None


def test_broken_font_file_is_passed_over(monkeypatch, tmp_path):
    """A file that is no font does not end the drawing."""
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"not a font")
    monkeypatch.setattr(caption, "FILES", (str(broken),))
    assert caption.legible("a ж") is None
    assert caption.legible("a b") is not None


FONT = ImageFont.load_default(20)


@given(st.text("abW 猫。é", max_size=120), st.integers(25, 400))
def test_wrapped_lines_fit_and_lose_nothing(text, width):
    """No line is too long, and the characters are those of the text in their order."""
    lines = caption.wrapped(" ".join(text.split()), FONT, width)
    assert "".join(lines).replace(" ", "") == "".join(text.split())
    assert all(line == line.strip() for line in lines)
    # An ideograph is not parted from the mark that ends its clause.
    assert all(FONT.getlength(line) <= width for line in lines if "。" not in line)


@given(st.lists(st.text("abc", min_size=1, max_size=8), max_size=20), st.integers(180, 400))
def test_words_that_fit_are_not_broken(words, width):
    """A line ends at a space unless a word is longer than a line."""
    lines = caption.wrapped(" ".join(words), FONT, width)
    assert " ".join(lines).split() == words


def test_ideographs_keep_the_mark_that_ends_their_clause():
    """A full stop of Chinese does not begin a line."""
    side = FONT.getlength("猫")
    assert caption.wrapped("猫猫。犬", FONT, 2 * side) == ["猫", "猫。", "犬"]


SIZES = [*(ratio.size for ratio in AspectRatio), (128, 96), (2048, 128)]


@settings(deadline=None)
@given(st.text("abcdef ", max_size=40), st.integers(1, 40), st.sampled_from(SIZES))
def test_prompt_fits_the_part_of_the_picture_that_is_its_own(text, times, whole):
    """However long a prompt is, its lines take no more than a third of the height."""
    found = caption.legible((text + "x ") * times)
    lines, font = caption._fitted(*found, Image.new("L", whole))
    count = lines.count("\n") + 1
    assert count == 1 or count * 1.4 * font.size <= 0.34 * whole[1]
    assert all(font.getlength(line) < whole[0] for line in lines.split("\n"))


@pytest.mark.parametrize(("prompt", "right"), [("A cat", False), ("1. שלום", True)])
def test_caption_stands_where_its_reading_begins(monkeypatch, prompt, right):
    """Text that is read from the right stands at the right; digits do not decide."""
    monkeypatch.setattr(caption, "legible", lambda text: (text, caption._OWN))
    picture = Image.new("RGB", (600, 300), "gray")
    caption.write(picture, prompt, (0, 0, 0))
    corner = picture.crop((400, 200, 600, 300)).getcolors()
    assert (len(corner) > 1) is right


def test_without_pillow_the_picture_is_a_gradient(monkeypatch):
    """A missing Pillow costs the beauty, not the PNG."""
    recipe = Recipe("A cat", (1280, 896), image_format="jpeg")
    for name in [name for name in sys.modules if name.split(".")[0] == "PIL"]:
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("painting", "caption"):
        monkeypatch.delitem(sys.modules, f"imagen_async.emulator.drawing.{name}")
    data = draw(recipe)
    monkeypatch.undo()
    assert (opened(data).size, media_type(data)) == ((1280, 896), "image/png")
    assert data == draw(Recipe("A cat", (1280, 896), style="plain"))


colours = st.tuples(*[st.integers(0, 255)] * 3)


@given(st.integers(1, 40), st.integers(1, 40), colours, colours)
def test_gradient_is_a_png_from_first_to_last_colour(width, height, top, foot):
    """The plain PNG decodes and its rows run from one colour to the other."""
    image = opened(png.gradient((width, height), top, foot))
    assert image.size == (width, height)
    assert image.getpixel((width - 1, 0)) == top
    if height > 1:
        assert image.getpixel((0, height - 1)) == foot


@given(st.text(st.characters(codec="ascii", categories=["L"]), max_size=20))
def test_comment_leaves_the_picture_as_it_was(text):
    """A PNG with a comment shows the same pixels and carries the comment."""
    data = png.gradient((4, 4), (0, 0, 0), (255, 255, 255))
    image = opened(png.with_comment(data, text))
    assert image.tobytes() == opened(data).tobytes()
    assert image.text == {"Comment": text}


@given(colours, colours, st.floats(0, 1))
def test_mixed_colour_lies_between(one, other, share):
    """A mix is never outside its two colours, and its ends are they."""
    for low, high, value in zip(one, other, png.mixed(one, other, share), strict=True):
        assert min(low, high) <= value <= max(low, high)
    assert (png.mixed(one, other, 0), png.mixed(one, other, 1)) == (one, other)


def test_picture_leaves_the_painter_without_loss():
    """The PNG's pixels are those that were painted: the differences add up again."""
    picture = Image.effect_noise((33, 21), 80).convert("RGB")
    assert opened(painting.encoded(picture, "png")).tobytes() == picture.tobytes()
