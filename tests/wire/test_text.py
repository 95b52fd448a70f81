"""Foreign text made safe to show."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen_async.wire.text import printable, shown_url


@given(text=st.text())
def test_printable_text_cannot_drive_a_terminal(text: str) -> None:
    """Whatever comes in, what goes out is one line without controls, bidi or zero-width marks."""
    shown = printable(text)

    assert all(unicodedata.category(each) not in {"Cc", "Cf", "Cs", "Zl", "Zp"} for each in shown)


@given(text=st.text(alphabet=st.characters(categories=["L", "N", "Po"])))
def test_readable_text_stays(text: str) -> None:
    """Letters, digits and punctuation of any script are shown as they are."""
    assert printable(text) == text


def test_long_text_is_cut_with_a_sign() -> None:
    """A text beyond the limit ends in an ellipsis."""
    assert printable("abcdef", 3) == "abc…"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://x.example/a.png?sig=SECRET#SECRET", "https://x.example/a.png"),
        ("https://user:SECRET@x.example:8443/a", "https://x.example:8443/a"),
        ("http://[::1]/\x1b[2J", "http://[::1]/\\x1b[2J"),
        ("http://[::1", "an unreadable URL"),
    ],
)
def test_urls_are_shown_without_their_secrets(url: str, shown: str) -> None:
    """User, password, query and fragment never show."""
    assert shown_url(url) == shown
