"""What a gateway says of a failure, in all the shapes it was seen to say it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from imagen_async.wire.error_body import (
    ErrorBody,
    clean,
    holds_image,
    is_error,
    is_task,
    read_error,
    read_error_body,
    request_id,
)
from tests.wire.recorded_responses import is_harmless, page

SHAPES: dict[str, tuple[object, ErrorBody | None]] = {
    "error object": (
        {"error": {"message": "no", "type": "t", "param": "", "code": "c"}},
        ErrorBody("c", "t", "no"),
    ),
    "error object, int code": (
        {"error": {"message": "no", "code": 404}},
        ErrorBody("404", None, "no"),
    ),
    "error object, float code": (
        {"error": {"message": "no", "code": 4.0}},
        ErrorBody("4", None, "no"),
    ),
    "litellm": (
        {"error": {"message": "no", "type": "None", "param": "None", "code": "400"}},
        ErrorBody("400", None, "no"),
    ),
    "empty code": ({"error": {"message": "no", "code": ""}}, ErrorBody(None, None, "no")),
    "true is no code": ({"error": {"message": "no", "code": True}}, ErrorBody(None, None, "no")),
    "huge code": ({"error": {"message": "no", "code": 10**5000}}, ErrorBody(None, None, "no")),
    "infinite code": (
        {"error": {"message": "no", "code": float("inf")}},
        ErrorBody(None, None, "no"),
    ),
    "google status": (
        {"error": {"code": 429, "message": "no", "status": "RESOURCE_EXHAUSTED"}},
        ErrorBody("429", "RESOURCE_EXHAUSTED", "no"),
    ),
    "google details": (
        {
            "error": {
                "message": "no",
                "details": [
                    {"violations": [{"quotaId": "PerDay"}, {"quotaId": ""}]},
                    {"reason": "API_KEY_INVALID"},
                    "junk",
                ],
            }
        },
        ErrorBody(None, None, "no", reasons=("API_KEY_INVALID", "PerDay")),
    ),
    "google array of one": ([{"error": {"message": "no"}}], ErrorBody(None, None, "no")),
    "error string": ({"error": "no", "code": "c"}, ErrorBody("c", None, "no")),
    "error without words": (
        {"error": {"message": "", "type": "upstream_error", "code": "bad_response_status_code"}},
        ErrorBody("bad_response_status_code", "upstream_error", None),
    ),
    "codes alone": ({"message": "", "type": "t", "code": "c"}, ErrorBody("c", "t", None)),
    "error true": ({"error": True, "message": "no"}, ErrorBody(None, None, "no")),
    "errors": (
        {"errors": ["one", {"message": "two"}, 3], "name": "payment_required"},
        ErrorBody("payment_required", None, "one; two"),
    ),
    "detail string": ({"error_code": "E1", "detail": "no"}, ErrorBody("E1", None, "no")),
    "detail list": (
        {"detail": [{"loc": ["body", "n", 0], "msg": "too large", "type": "le"}]},
        ErrorBody(None, "le", "body.n.0: too large"),
    ),
    "detail object": ({"detail": {"error": {"message": "no"}}}, ErrorBody(None, None, "no")),
    "message": ({"message": "no", "message_zh": "不"}, ErrorBody(None, None, "no")),
    "msg": ({"code": 10001, "msg": "no"}, ErrorBody("10001", None, "no")),
    "err": ({"err": "no"}, ErrorBody(None, None, "no")),
    "error_msg": ({"error_msg": "no"}, ErrorBody(None, None, "no")),
    "header.message": ({"header": {"message": "no"}}, ErrorBody(None, None, "no")),
    "response.error.message": (
        {"response": {"error": {"message": "no"}}},
        ErrorBody(None, None, "no"),
    ),
    "description": (
        {"description": "no", "type": "upstream_error", "code": 4},
        ErrorBody("4", "upstream_error", "no"),
    ),
    "spring's status is no type": (
        {"status": 500, "error": "Internal Server Error"},
        ErrorBody(None, None, "Internal Server Error"),
    ),
    "first hit wins": (
        {"error": {"message": "first"}, "detail": "second", "message": "third"},
        ErrorBody(None, None, "first"),
    ),
    "too deep": ({"error": {"error": {"error": {"error": {"error": "no"}}}}}, None),
    "string": ("no", ErrorBody(None, None, "no")),
    "empty string": ("", None),
    "null": (None, None),
    "number": (7, None),
    "empty array": ([], None),
    "success": ({"created": 1, "data": []}, None),
}


@pytest.mark.parametrize(("document", "expected"), SHAPES.values(), ids=SHAPES)
def test_every_known_shape_is_read(document: object, expected: ErrorBody | None) -> None:
    """Each envelope that gateways were seen to send gives its code, type and words."""
    assert read_error(document) == expected


BODIES: dict[str, tuple[bytes, ErrorBody]] = {
    "empty": (b"", ErrorBody(page=True)),
    "json": (b'{"error":{"message":"no","code":"c"}}', ErrorBody("c", None, "no")),
    "bom": (b'\xef\xbb\xbf{"error":"no"}', ErrorBody(None, None, "no")),
    "spaces first": (b' \r\n {"error":"no"}', ErrorBody(None, None, "no")),
    "two documents": (b'{"error":"one"}{"error":"two"}', ErrorBody(None, None, "one")),
    "unknown json": (b'{"a": 1}', ErrorBody(None, None, '{"a": 1}', page=True)),
    "cloudflare text": (b"error code: 502\n", ErrorBody(None, None, "error code: 502", page=True)),
    "html": (
        b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>",
        ErrorBody(None, None, "502 Bad Gateway", html=True, page=True),
    ),
    "doctype": (b"<!DOCTYPE html><body>x", ErrorBody(html=True, page=True)),
    "html after comments": (
        b"<?xml version='1.0'?> <!-- x --> <HTML lang=en><TITLE\n>No</TITLE>",
        ErrorBody(None, None, "No", html=True, page=True),
    ),
    "not utf-8": (b"\xff\xfe no", ErrorBody(None, None, "�� no", page=True)),
    "haproxy": (
        b"<html><body><h1>503 Service Unavailable</h1>\nNo server is available.\n</body></html>",
        ErrorBody(None, None, "503 Service Unavailable", html=True, page=True),
    ),
    "nginx": (
        page("502 Bad Gateway"),
        ErrorBody(None, None, "502 Bad Gateway", html=True, page=True, footer="nginx/1.22.1"),
    ),
    "text in html-message": (
        b'{"html-message": "fetch failed", "status": 500}',
        ErrorBody(None, None, "fetch failed", page=True),
    ),
    "a page in html-message": (
        b'{"html-message": "<!doctype html><title>No</title>"}',
        ErrorBody(None, None, "No", html=True, page=True),
    ),
}


@pytest.mark.parametrize(("body", "expected"), BODIES.values(), ids=BODIES)
def test_every_kind_of_body_is_read(body: bytes, expected: ErrorBody) -> None:
    """JSON, then an HTML title, then the text itself gives the message."""
    assert read_error_body(body) == expected


def test_long_text_is_cut_at_200_characters() -> None:
    """A body that is neither JSON nor HTML gives its first 200 characters and an ellipsis."""
    assert read_error_body(b"x" * 70_000).message == "x" * 200 + "…"


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"error":' * 20_000,
        b'{"error":{"code":' + b"9" * 5_000 + b"}}",
        b'{"error":{"code":NaN,"message":"\\ud800"}}',
        b"<title" * 20_000,
        b"<html>" + b"<title" * 20_000,
        b"<!>" * 40_000,
        b"<!-- -->" * 20_000,
        b'{"error":"' + b"https://a" * 7_000 + b'"}',
        b'{"error":"' + b"sk-" * 20_000 + b'"}',
    ],
    ids=lambda body: body[:12].decode(),
)
def test_hostile_bodies_are_read(body: bytes) -> None:
    """Deep nesting, huge numbers and texts made to stall a regex end in an envelope."""
    assert isinstance(read_error_body(body), ErrorBody)


@given(st.binary(max_size=300))
def test_any_bytes_give_an_envelope(body: bytes) -> None:
    """No body makes the reader raise, and no control character passes it."""
    found = read_error_body(body)
    assert all(text is None or is_harmless(text) for text in (found.code, found.message))


# fmt: off
KEYS = [
    "error", "errors", "detail", "message", "code", "type", "status", "name", "loc", "msg",
    "details", "violations", "reason", "quotaId", "data", "images", "url", "task_id", "success",
    "object", "header", "response",
]
# fmt: on
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_document_is_read(document: Any) -> None:
    """No document makes the readers raise, and what they give is printable."""
    found = read_error(document)
    assert found is None or found.code or found.type or found.message
    texts = (found.code, found.type, found.message, *found.reasons) if found else ()
    assert all(text is None or is_harmless(text) for text in texts)
    assert {is_error(document), is_task(document), holds_image(document)} <= {True, False}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Incorrect API key provided: abcd1234.", "Incorrect API key provided: ***"),
        ("令牌sk-proj-abcDEF123状态", "令牌***状态"),
        ("TokenStatusExhausted[sk-ab***yz]", "TokenStatusExhausted[***]"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("key=AIzaSyA1234567890abc", "key=***"),
        ("jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIi.x_y", "jwt ***"),
        ("see https://u:p@a.example/b?sig=1#f now", "see https://a.example/b now"),
        ("risk-averse task-1234567", "risk-averse task-1234567"),
        ("\x1b[31mred\u202e", "\\x1b[31mred\\u202e"),
        ("a\nb", "a b"),
        ("   ", None),
    ],
)
def test_foreign_text_is_cleaned(text: str, shown: str | None) -> None:
    """Keys, signatures and terminal escapes do not pass; other words do."""
    assert clean(text) == shown


def test_masking_comes_before_cutting() -> None:
    """A key at the edge of a cut is not shown in part."""
    assert "sk-" not in (clean("x" * 293 + " sk-" + "a" * 40, 300) or "")


@pytest.mark.parametrize(
    ("headers", "message", "expected"),
    [
        ({"X-Oneapi-Request-Id": "a", "X-Request-Id": "b"}, "(request id: c)", "a"),
        ({"X-Request-Id": "b", "CF-Ray": "d"}, None, "b"),
        ({"x-litellm-call-id": "l", "cf-ray": "d"}, None, "l"),
        ({"CF-RAY": "d"}, None, "d"),
        ({"X-Request-Id": ""}, "no (request id: 2026…Fa)", "2026…Fa"),
        ({}, "no (request_id: x)", "x"),
        ({}, "no", None),
        ({}, None, None),
        ({"X-Request-Id": "  "}, None, None),
        ({"X-Request-Id": "\x1b" * 300}, None, ("\\x1b" * 300)[:200]),
    ],
)
def test_the_request_id_is_found(
    headers: dict[str, str], message: str | None, expected: str | None
) -> None:
    """Headers in order of use, then the message, give a printable id of at most 200 characters."""
    assert request_id(CIMultiDict(headers), message) == expected


@pytest.mark.parametrize(
    ("text", "error", "task", "image"),
    [
        ('{"error":{"message":"no"}}', True, False, False),
        ('{"error":null,"data":[]}', False, False, False),
        ('{"error":false}', False, False, False),
        ('{"error":true}', True, False, False),
        ('{"error":""}', False, False, False),
        ('{"errors":["no"]}', True, False, False),
        ('{"code":404,"object":"error","message":"no"}', True, False, False),
        ('{"object":"error"}', True, False, False),
        ('{"error_code":"E","detail":"no"}', True, False, False),
        ('{"error_code":0,"error_msg":"success"}', False, False, False),
        ('{"success":false}', True, False, False),
        ('{"code":0,"message":"success","data":null}', False, False, False),
        ('{"code":"InvalidParameter","message":"no"}', True, False, False),
        ('{"code":10,"data":[{"url":"u"}]}', False, False, True),
        ('{"status":"failed"}', True, False, False),
        ('{"created":1,"data":[]}', False, False, False),
        ('{"created":1,"data":[{"url":"","b64_json":null}]}', False, False, False),
        ('{"data":{"b64_json":"x"}}', False, False, True),
        ('{"images":[{"url":"u"}]}', False, False, True),
        ('{"task_id":"t","status":"queued"}', False, True, False),
        ('{"code":"success","data":{"task_id":"t"}}', False, True, False),
        ('{"status":"processing"}', False, True, False),
        ("[]", False, False, False),
        ("null", False, False, False),
    ],
)
def test_errors_tasks_and_images_are_told_apart(
    text: str, error: bool, task: bool, image: bool
) -> None:
    """A 2xx answer's JSON shows whether it is an error, a task's receipt, or holds an image."""
    document = json.loads(text)
    assert (is_error(document), is_task(document), holds_image(document)) == (error, task, image)
