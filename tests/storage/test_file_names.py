"""File names from prompts."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen_async.storage.file_names import file_name, slug

HOSTILE = set("<>:\"/\\|?*%#&;$`!'()[]{}~= ")
texts = st.text(st.characters()) | st.text(
    st.sampled_from("aB1é中.-_ /\\:\n\0\u202e\u200b\ufe0f\ud800\U0001f600\u0301\u3164conCOM")
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A person walking in the forest", "A-person-walking-in-the-forest"),
        ("  a  \t b\n", "a-b"),
        ("cats/dogs: 16:9?", "cats-dogs-16-9"),
        ("../../etc/passwd", "etc-passwd"),
        ("-rf", "rf"),
        (".hidden", "hidden"),
        ("v1.5 final.", "v1.5-final"),
        ("森の中を歩く人", "森の中を歩く人"),
        ("Cafe\u0301", "Caf\u00e9"),
        ("हिन्दी", "हिन्दी"),
        ("a\u202eb\u200bc\0d\ud800e", "abcde"),
        ("\u3164\ufe0f", "image"),
        ("", "image"),
        ("...", "image"),
        ("🦊🦊", "image"),
        ("{0.__class__}", "0.__class__"),
        ("con", "_con"),
        ("NUL.txt", "_NUL.txt"),
        ("com1", "_com1"),
        ("lpt\u00b9 x", "lpt\u00b9-x"),
        ("lpt\u00b9", "_lpt\u00b9"),
        ("console", "console"),
        ("aux", "_aux"),
    ],
)
def test_a_slug_keeps_the_words(text: str, expected: str) -> None:
    """A prompt's letters and digits stay, and everything a system could misread goes."""
    assert slug(text) == expected


@given(texts, st.integers(5, 80))
def test_any_text_gives_one_safe_component(text: str, limit: int) -> None:
    """Whatever the text, its slug is short, visible, NFC and harmless."""
    name = slug(text, limit)
    assert 0 < len(name.encode()) <= limit
    assert name == unicodedata.normalize("NFC", name)
    assert not HOSTILE & set(name)
    assert all(unicodedata.category(character)[0] in "LNMP" for character in name)
    assert name[0] not in "-."
    assert name[-1] not in "-."
    assert name.split(".")[0].lower() not in {"con", "prn", "aux", "nul", "com1", "lpt9"}


@given(texts, st.integers(5, 80))
def test_a_slug_of_a_slug_is_itself(text: str, limit: int) -> None:
    """Making a slug twice changes nothing, so a stored one can be used again."""
    assert slug(slug(text, limit), limit) == slug(text, limit)


@given(texts, st.none() | st.integers(1, 10**6), st.sampled_from([".png", ".jpg", ""]))
def test_a_whole_name_fits_in_150_bytes(text: str, number: int | None, suffix: str) -> None:
    """A file's name is one component of at most 150 bytes that ends in what we gave."""
    name = file_name(text * 40, "0123456789ab", number, suffix)
    assert len(name.encode()) <= 150
    tail = "" if number is None else f"-{number}"
    assert name.endswith(f"-0123456789ab{tail}{suffix}")


def test_a_name_is_never_cut_inside_a_character() -> None:
    """A limit that falls inside a character drops that character whole."""
    assert slug("中" * 40, 60) == "中" * 20
    assert slug("中" * 40, 61) == "中" * 20
    assert slug("a b", 5) == "a-b"
    assert slug("abcd efgh", 5) == "abcd"


def test_a_cut_that_makes_a_device_name_is_seen() -> None:
    """A name that only the cut turns into a Windows device is prefixed all the same."""
    assert slug("lpt1.5 x", 6) == "_lpt1"


def test_a_megabyte_prompt_costs_little() -> None:
    """Only the head of a huge prompt is looked at, and it still gives a name."""
    assert slug("forest " * 200_000).startswith("forest-forest")


def test_names_have_the_agreed_shape() -> None:
    """The grammar of a name is slug, digest, number, suffix."""
    assert file_name("forest", "0123456789ab", None, ".png") == "forest-0123456789ab.png"
    assert file_name("forest", "0123456789ab", 2, ".jpg") == "forest-0123456789ab-2.jpg"
