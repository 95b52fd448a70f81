"""What of an answer's bytes is worth keeping."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen_async.wire.finding import CUT, look
from imagen_async.wire.image_header import RASTERS, UNKNOWN

HEADS = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"<svg ", b"<html>", b"%PDF-", b"{"]
PAGES = [
    (b"<!DOCTYPE html>", "an HTML page came"),
    (b" \n<HTML>", "an HTML page came"),
    (b'{"error":1}', "a JSON document came"),
    (b"[]", "a JSON document came"),
    (b"<Error><Code>NoSuchKey</Code></Error>", "an XML document came"),
    (b"\xef\xbb\xbfNot found", "a text came"),
    ("\u932f\u8aa4".encode(), "a text came"),
]


@given(st.sampled_from(HEADS), st.binary(max_size=200), st.booleans())
def test_only_emptiness_is_dropped_of_an_answer(head: bytes, rest: bytes, linked: bool) -> None:
    """What came as base64 is always kept; a link's bytes are dropped if it can be tried again."""
    found = look(head + rest, linked=linked)
    if not linked:
        assert found.kept is bool(head + rest)
    if found.cut:
        assert found.media.media_type in RASTERS
        assert found.kept is not linked
    assert (CUT in found.ending) is (found.cut and found.kept)
    if not found.kept:
        assert found.note


@pytest.mark.parametrize(("data", "said"), PAGES)
def test_a_links_text_is_an_error_and_an_answers_is_paid_for(data: bytes, said: str) -> None:
    """Behind a link a text is what a server says in the stead of an image."""
    assert look(data, linked=True).note == f"{said} instead of an image"
    assert not look(data, linked=True).kept
    assert look(data, linked=False).ending == ".bin"


@pytest.mark.parametrize(
    ("data", "ending"), [(b"<svg/>", ".svg"), (b"%PDF-1.4", ".pdf"), (b"\0\1", ".bin")]
)
@pytest.mark.parametrize("linked", [False, True])
def test_vector_data_and_unknown_bytes_are_kept(data: bytes, ending: str, linked: bool) -> None:
    """They are no error that a server words, so they are what was paid for."""
    found = look(data, linked=linked)
    assert (found.kept, found.cut, found.ending) == (True, False, ending)
    assert found.note == f"not a raster image that can be checked: kept as {ending}"


def test_an_absurd_size_reaches_no_decoder() -> None:
    """Bytes that claim more pixels than there can be lose the type by which they would be shown."""
    gif = b"GIF89a" + b"\xff\xff\xff\xff" + bytes(10) + b";"
    found = look(gif, linked=False)
    assert (found.media.media_type, found.media.width, found.ending) == (UNKNOWN, None, ".bin")
    assert found.note == "it claims 65535 x 65535 pixels: kept as .bin"
