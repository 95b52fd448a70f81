"""Secrets in whatever a gateway says: starred however they are written, and nothing else is."""

from __future__ import annotations

import base64
import html
import json
import string
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from imagen_async.errors import Verdict
from imagen_async.wire.mask import LONG, NO_MASK, SHORTEST, Mask, MaskedHeaders
from imagen_async.wire.verdict import judge_error_document, judge_status

SECRET = "Swordfish-42/x+y=&z"
WAYS: dict[str, Any] = {
    "as it is": str,
    "in capitals": str.upper,
    "in small letters": str.lower,
    "in a URL": lambda secret: quote(secret, safe=""),
    "in a URL, small letters": lambda secret: quote(secret, safe="").lower(),
    "in JSON": lambda secret: json.dumps(secret)[1:-1],
    "in PHP's JSON": lambda secret: json.dumps(secret)[1:-1].replace("/", "\\/"),
    "in .NET's JSON": lambda secret: "".join(
        each if each.isalnum() else f"\\u{ord(each):04X}" for each in secret
    ),
    "in HTML": html.escape,
    "in numbers of HTML": lambda secret: "".join(
        each if each.isalnum() else f"&#{ord(each)};" for each in secret
    ),
    "in base64": lambda secret: base64.b64encode(secret.encode()).decode().rstrip("="),
    "in base64 of URLs": lambda secret: (
        base64.urlsafe_b64encode(secret.encode()).decode().rstrip("=")
    ),
}
KEYS = st.text(string.ascii_letters + string.digits + "-_./+=&\"'<>%:~!", min_size=LONG).filter(
    lambda key: any(map(str.isalnum, key))
)


@pytest.mark.parametrize("way", WAYS)
def test_a_secret_is_starred_however_it_is_written(way: str) -> None:
    """Raw, in another case, escaped or in base64, amid other text: stars, and the text is kept."""
    assert Mask([SECRET]).text(f"No, {WAYS[way](SECRET)}: no") == "No, ***: no"
    assert Mask([SECRET]).text(f"xx{WAYS[way](SECRET)}xx") == "xx***xx"


@given(KEYS, st.sampled_from(sorted(WAYS)), st.text(max_size=20), st.text(max_size=20))
def test_no_secret_gets_through(key: str, way: str, before: str, after: str) -> None:
    """Whatever stands around it, no way to write any key is left."""
    written = WAYS[way](key)
    assert written not in Mask([key]).text(f"{before} {written} {after}")


@given(KEYS, st.text("xyz ,\u00e9\u0130", max_size=50))
def test_other_text_is_left_as_it_is(key: str, text: str) -> None:
    """Text without the key comes out unchanged, without a secret all text does."""
    assert Mask([key]).text(text) == text or key.lower() in text.lower()
    assert NO_MASK.text(key) == key


@pytest.mark.parametrize(
    ("secret", "text", "shown"),
    [
        ("abc", "abc is abc", "abc is abc"),
        ("none", "none of nonesuch or none-such: none.", "*** of nonesuch or none-such: ***."),
        ("hunter2", "hunter2, hunter22 and Bearer hunter2", "***, hunter22 and Bearer ***"),
        ("hunter22", "xhunter22x", "x***x"),
    ],
)
def test_short_secrets_do_not_tear_words(secret: str, text: str, shown: str) -> None:
    """Below eight characters whole words are masked, below four nothing is: they hide nothing."""
    assert len(secret) < SHORTEST or shown != text
    assert Mask([secret]).text(text) == shown


def test_the_longer_of_two_secrets_goes_first() -> None:
    """A header's whole value is masked before its last word, which is masked alone too."""
    mask = Mask(["Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"])
    assert mask.text("Basic dXNlcjpwYXNz or dXNlcjpwYXNz") == "*** or ***"


def test_json_is_masked_in_place_at_any_depth() -> None:
    """Texts and names are masked; what is no text stays, and no depth is too deep."""
    document: Any = {SECRET: [SECRET, 7, None, {"a": f"x {SECRET}", "b": True}]}
    assert Mask([SECRET]).document(document) is document
    assert document == {"***": ["***", 7, None, {"a": "x ***", "b": True}]}
    assert Mask([SECRET]).document(SECRET) == "***"
    deep: Any = [SECRET]
    for _ in range(50_000):
        deep = [deep]
    node = Mask([SECRET]).document(deep)
    while isinstance(node, list):
        (node,) = node
    assert node == "***"


def test_headers_are_masked_as_they_are_read() -> None:
    """Each way to read a header masks it, whatever the case of its name."""
    headers = MaskedHeaders(CIMultiDict({"X-Request-Id": f"r-{SECRET}"}), Mask([SECRET]))
    assert headers["x-request-id"] == headers.get("X-REQUEST-ID") == "r-***"
    assert headers.get("cf-ray") is None
    assert headers.get("cf-ray", "none") == "none"
    assert dict(headers) == {"X-Request-Id": "r-***"}
    assert len(headers) == 1


def test_a_mask_hides_its_secrets() -> None:
    """Neither the mask nor masked headers tell what they mask."""
    mask = Mask([SECRET])
    assert SECRET not in f"{mask!r} {MaskedHeaders({'a': SECRET}, mask)!r}"


@pytest.mark.parametrize("limit", range(60, 310, 7))
def test_a_secret_is_masked_before_it_is_cut(limit: int) -> None:
    """No beginning of a key is left where words are cut short."""
    for body in (
        {"error": {"message": "x" * limit + SECRET, "code": "x" * (limit % 100) + SECRET}},
        "x" * limit + SECRET,
        f"<html><title>{'x' * limit}{SECRET}</title>",
    ):
        raw = body if isinstance(body, str) else json.dumps(body)
        judged = judge_status(400, CIMultiDict(), raw.encode(), mask=Mask([SECRET]))
        assert SECRET[:3] not in f"{judged.message} {judged.code}"


@pytest.mark.parametrize("key", ["insufficient_quota", "rate limit reached"])
def test_a_verdict_goes_by_what_came(key: str) -> None:
    """A key that happens to be a word of the table changes no verdict, only what is told."""
    body = {"error": {"code": "insufficient_quota", "message": "rate limit reached"}}
    judged = judge_status(429, CIMultiDict(), json.dumps(body).encode(), mask=Mask([key]))
    within = judge_error_document(body, CIMultiDict(), 200, mask=Mask([key]))
    assert within is not None
    assert judged.verdict is within.verdict is Verdict.QUOTA
    assert key not in f"{judged} {within}"
