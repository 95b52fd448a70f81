"""A short random walk through all that foreign bytes reach; the long one is atheris_target.py."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, TOKENS

words = st.lists(
    st.binary(max_size=6) | st.sampled_from([token[:12] for token in TOKENS]), max_size=12
)
texts = st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300) | words.map(b"".join) | texts)
def test_no_bytes_break_a_room(name: str, data: bytes) -> None:
    """Each room ends every input in a value or in an error of ours, within its bounds."""
    TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_would_notice(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A room that raises something else is a find, whichever it is."""

    def broken(*_: object, **__: object) -> None:
        raise KeyError(name)

    for room in (
        *("AnswerDecoder", "read_error_body", "inspect", "slug", "url_problem"),
        *("retry_after", "printable"),
    ):
        monkeypatch.setattr(f"tests.fuzz.targets.{room}", broken)
    with pytest.raises(KeyError):
        TARGETS[name](b"abc")
