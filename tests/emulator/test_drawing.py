"""Pictures: whole, of the exact size, always the same, and different for each prompt."""

from __future__ import annotations

import io
import itertools
import random
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imagen_async.emulator.drawing import Recipe, draw, lettering, media_type, painting, png
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
    assert all(opened(draw(Recipe(f"A cat {n}", size))).size == size for n in range(8))


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
        lettering.letter(picture, prompt, (0, 0, 0))
        pictures.append(picture)
        corner = picture.crop((256, 0, 512, 80))
        assert corner.getcolors(65536) != blank.crop((256, 0, 512, 80)).getcolors(65536)
    assert pictures[0].tobytes() != pictures[1].tobytes()
    top = (0, 0, 512, 250)
    assert pictures[0].crop(top).tobytes() == pictures[1].crop(top).tobytes()


@given(st.text(max_size=1000))
def test_written_text_is_one_short_line_that_fonts_have(prompt):
    """What is written has no control character, a bounded length, and a font for each sign."""
    text = lettering.readable(prompt)
    assert len(text) <= lettering.LONGEST + 1
    assert text == " ".join(text.split())
    signs = set(text) - set(lettering._JOINERS) - {" ", "…"}
    assert all(lettering.font_for(sign) is not None for sign in signs)


def test_signs_that_steer_a_text_are_not_written():
    """Overrides of the direction and private signs are left out, even where a font has them."""
    assert lettering.readable("abc\u202edef\u200b \ue000ghi\ud800jkl") == "abcdef ghijkl"


@given(st.text("ab 猫。é", max_size=120), st.integers(1, 30))
def test_wrapped_lines_fit_and_lose_nothing(text, longest):
    """No line is too long, and the characters are those of the text in their order."""
    lines = lettering.wrapped(" ".join(text.split()), len, longest)
    assert "".join(lines).replace(" ", "") == "".join(text.split())
    assert all(0 < len(line) <= longest and line == line.strip() for line in lines)


@given(st.text("ab 猫", max_size=80), st.integers(5, 30))
def test_words_that_fit_are_not_broken(text, longest):
    """A line ends at a space or beside an ideograph, unless a word is longer than a line."""
    words = " ".join(text.replace("猫", " 猫 ").split())
    lines = lettering.wrapped(words, len, longest)
    if all(len(word) <= longest for word in words.split()):
        assert " ".join(lines).split() == words.split()


def test_ideographs_keep_the_mark_that_ends_their_clause():
    """A full stop of Chinese does not begin a line, and a letter keeps its accents."""
    assert lettering.wrapped("猫猫。犬", len, 2) == ["猫", "猫。", "犬"]
    assert lettering.wrapped("a" + "\u0301" * 3 + "b", len, 2) == ["a\u0301\u0301\u0301", "b"]


@given(st.text("ab 猫🦊\u200dش", max_size=60))
def test_runs_are_the_text_in_fonts_that_differ(text):
    """The pieces put together are the text, and neighbours are of different fonts."""
    pieces = lettering.runs(text)
    assert "".join(piece for _, piece in pieces) == text
    assert all(one[0] != other[0] for one, other in itertools.pairwise(pieces))


@pytest.mark.parametrize(
    ("text", "right"), [("hello", False), ("1. שלום", True), ("قطة cat", True), ("123", False)]
)
def test_direction_is_that_of_the_first_strong_letter(text, right):
    """Neutral characters do not decide the direction."""
    assert lettering.from_the_right(text) is right


def test_emoji_font_writes_emoji_alone(monkeypatch):
    """Neither a digit nor a space is taken from it, and a joined emoji stays in one piece."""
    monkeypatch.setattr(lettering, "_shape", lambda path, character: character)
    assert lettering._has("NotoColorEmoji.ttf", "🦊")
    assert not lettering._has("NotoColorEmoji.ttf", "1")
    files = {"👩": "emoji.ttf", "🚀": "emoji.ttf"}
    monkeypatch.setattr(lettering, "font_for", lambda character: files.get(character, "sans.ttf"))
    pieces = [("sans.ttf", "a "), ("emoji.ttf", "👩\u200d🚀"), ("sans.ttf", " 2")]
    assert lettering.runs("a 👩\u200d🚀 2") == pieces


SIZES = [*(ratio.size for ratio in AspectRatio), (128, 96), (2048, 128)]


@given(st.text("abcdef 猫", max_size=40), st.integers(1, 40), st.sampled_from(SIZES))
def test_prompt_fits_the_part_of_the_picture_that_is_its_own(text, times, whole):
    """However long a prompt is, its lines take no more than a third of the height."""
    text = lettering.readable((text + " ") * times)
    lines, size = lettering._fitted(text, Image.new("L", whole))
    assert len(lines) * lettering._LINE * size <= 0.34 * whole[1]
    assert all(lettering._length(line, size) < whole[0] for line in lines)


@pytest.fixture
def font_folder(monkeypatch, tmp_path):
    """A machine with no fonts but those a test puts there."""
    caches = (lettering.font_files, lettering.font_for)
    monkeypatch.setattr(lettering, "_FOLDERS", (str(tmp_path),))
    for cached in caches:
        cached.cache_clear()
    yield tmp_path
    for cached in caches:
        cached.cache_clear()


def test_without_any_font_files_pillow_lends_its_own(font_folder):
    """A machine without fonts still writes Latin letters."""
    assert lettering.readable("A cat") == "A cat"
    assert lettering.runs("A cat") == [("", "A cat")]


@pytest.mark.parametrize(
    ("prompt", "written"),
    [
        ("一只熊猫在竹林里喝茶", ""),
        ("一只熊猫在竹林里喝茶 4K", ""),
        ("🦊🌲 a fox and a tree", "a fox and a tree"),
        ("abc\u202edef\u200b \ue000ghi\x07\ud800jkl", "abcdef ghi jkl"),
        ("ȧ\u0307 cȧt with a long tail", "a cat with a long tail"),
    ],
)
def test_what_no_font_has_is_left_out(font_folder, prompt, written):
    """No box stands for a missing character: a letter loses its accent, another sign goes."""
    assert lettering.readable(prompt) == written
    picture = draw(Recipe(prompt, (256, 192)))
    assert opened(picture).size == (256, 192)


def test_mark_is_not_taken_as_there_for_its_dotted_circle():
    """A font that has no letters of a script is not said to have its vowel signs."""
    for mark, letter in ("\u093fक", "\u0e34ก"):
        assert lettering.font_for(mark) is None or lettering.font_for(letter) is not None


@pytest.mark.parametrize("name", ["broken.ttf", "notes.txt", "Bold-of-none.ttf"])
def test_file_that_is_no_font_is_passed_over(font_folder, name):
    """A broken font file, or another file, does not end the drawing."""
    (font_folder / name).write_bytes(b"not a font")
    assert lettering.font_for("A") == ""


def test_fonts_are_asked_in_the_order_of_their_names(font_folder):
    """Emoji first, for they are asked for nothing else; plain sans next; bold never."""
    names = ["Curly.ttf", "NotoSans-Bold.ttf", "MySans.otf", "Arial.ttf", "NotoColorEmoji.ttf"]
    for name in names:
        (font_folder / name).touch()
    order = [path.rpartition("/")[2] for path in lettering.font_files()]
    assert order == ["NotoColorEmoji.ttf", "Arial.ttf", "MySans.otf", "Curly.ttf", ""]


def test_without_shaping_scripts_from_the_right_are_left_out(monkeypatch, font_folder):
    """Where Pillow has no raqm, Hebrew would be written backwards: it is not written."""
    monkeypatch.setattr(lettering, "_SHAPES", False)
    monkeypatch.setattr(lettering, "_has", lambda path, character: True)
    assert lettering.readable("a שלום abcdefgh") == "a abcdefgh"


def test_font_of_one_size_is_scaled(monkeypatch):
    """Colour emoji come in one size alone: they are scaled to that of the words beside them."""
    small, own = (lettering.ImageFont.load_default(size) for size in (20, 109))

    def truetype(_path, size, layout_engine):
        if size != 109:
            raise OSError("invalid pixel size")
        return own

    monkeypatch.setattr(lettering.ImageFont, "truetype", truetype)
    monkeypatch.setattr(lettering, "runs", lambda text: [("one-size.ttf", text)])
    assert lettering._font("one-size.ttf", 20) == (own, 20 / 109)
    long = lettering._length("AA", 20)
    assert long == pytest.approx(small.getlength("AA"), rel=0.1)
    picture = Image.new("RGB", (200, 60))
    assert lettering._write(picture, 5, 40, "AA", own, 20 / 109) == long
    left, top, right, foot = picture.getbbox()
    assert 3 <= left < right <= 8 + long
    assert 22 <= top < foot <= 42


def test_without_pillow_the_picture_is_a_gradient(monkeypatch):
    """A missing Pillow costs the beauty, not the PNG."""
    recipe = Recipe("A cat", (1280, 896))
    for name in [name for name in sys.modules if name.split(".")[0] == "PIL"]:
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("painting", "lettering"):
        monkeypatch.delitem(sys.modules, f"imagen_async.emulator.drawing.{name}")
    data = draw(recipe)
    monkeypatch.undo()
    assert opened(data).size == (1280, 896)
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
