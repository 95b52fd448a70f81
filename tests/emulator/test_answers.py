"""What the emulator answers when nothing goes wrong, and to what is wrong in the request."""

from __future__ import annotations

import base64
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen_async.emulator.requests import OrderError, read_order

PNG = b"\x89PNG\r\n\x1a\n"


async def test_page_dialect_answers_created_and_links_alone(raw):
    """A default answer has the page's two fields, and each link leads to a PNG."""
    reply = await raw.post("A cat", n=2)
    assert reply.status == 200
    assert set(reply.json) == {"created", "data"}
    assert type(reply.json["created"]) is int
    assert [set(item) for item in reply.json["data"]] == [{"url"}, {"url"}]
    for item in reply.json["data"]:
        assert item["url"].startswith(raw.emulator.origin + "/files/")
        file = await raw.get(item["url"])
        assert (file.status, file.headers["Content-Type"]) == (200, "image/png")
        assert file.body.startswith(PNG)


async def test_b64_json_is_the_image_itself(raw):
    """Base64 is strict, padded and decodes to a PNG when it was asked for."""
    reply = await raw.post("A cat", response_format="b64_json")
    (item,) = reply.json["data"]
    assert set(item) == {"b64_json"}
    assert base64.b64decode(item["b64_json"], validate=True).startswith(PNG)


async def test_endpoint_works_without_the_version_too(raw):
    """POST /images/generations is the same endpoint."""
    reply = await raw.send("POST", "/images/generations", json={"prompt": "A cat"})
    assert reply.status == 200
    assert raw.emulator.ledger["A cat"].charged == 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "  \n"}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": "A cat", "model": 7}, "model"),
        ({"prompt": "A cat", "aspect_ratio": "2:3"}, "aspect_ratio"),
        ({"prompt": "A cat", "aspect_ratio": 1}, "aspect_ratio"),
        ({"prompt": "A cat", "response_format": "png"}, "response_format"),
        ({"prompt": "A cat", "n": "2"}, "n"),
        ({"prompt": "A cat", "n": True}, "n"),
        ({"prompt": "A cat", "n": 0}, "n"),
        ({"prompt": "A cat", "n": 11}, "n"),
        ({"prompt": "A cat", "size": "big"}, "size"),
        ({"prompt": "A cat", "size": "9999x9"}, "size"),
        ({"prompt": "A cat", "seed": 1.5}, "seed"),
    ],
)
async def test_wrong_field_is_a_400_that_names_it_and_costs_nothing(raw, body, param):
    """What the gateway cannot take is refused by name, uncharged."""
    reply = await raw.send("POST", "/v1/images/generations", json=body)
    assert reply.status == 400
    assert reply.json["error"]["param"] == param
    assert reply.json["error"]["message"].startswith(param)
    assert raw.emulator.ledger.total.charged == 0


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"n": NaN}', b'"text"', b"\xff\xfe", b"[" * 5000]
)
async def test_body_that_is_no_object_is_a_400(raw, data):
    """Broken JSON, and JSON that is no object, are refused."""
    reply = await raw.send("POST", "/v1/images/generations", data=data)
    assert reply.status == 400
    assert reply.json["error"]["code"] == "invalid_json"


@pytest.mark.parametrize(
    ("body", "size"),
    [
        ({}, (1024, 1024)),
        ({"size": "auto"}, (1024, 1024)),
        ({"size": "16:9"}, (1408, 768)),
        ({"size": "33x21"}, (33, 21)),
        ({"size": "33x21", "aspect_ratio": "3:4"}, (896, 1280)),
        ({"size": "", "aspect_ratio": ""}, (1024, 1024)),
    ],
)
async def test_image_has_the_pixels_that_were_asked(run, body, size):
    """The ratio decides, then the size, then a square."""
    async with run(draw="plain") as (_, raw):
        (item,) = (await raw.post(**body)).json["data"]
        data = (await raw.get(item["url"])).body
        assert (int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")) == size


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    st.sampled_from(["1:1", "16:9", "url", "b64_json", "512x512", "auto", "imagen4"]),
)
FIELDS = ("prompt", "model", "response_format", "aspect_ratio", "size", "n", "seed", "other")


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES))
def test_any_object_is_an_order_or_is_told_why_not(body):
    """No mixture of types and values makes the gateway fail."""
    try:
        order = read_order(body)
    except OrderError as error:
        told = (error.trouble, bool(error.about))
    else:
        told = None
        assert order.prompt == body["prompt"]
        assert 1 <= order.n <= 10
        assert all(1 <= side <= 4096 for side in order.size)
    assert told in (None, ("invalid", True), ("prompt_missing", False))


async def test_unknown_fields_are_ignored(raw):
    """A gateway drops what it does not know."""
    reply = await raw.post("A cat", quality="hd", user="me", watermark=False, nonsense={"a": [1]})
    assert reply.status == 200


async def test_body_over_the_limit_gets_the_fronts_413(raw):
    """A request over 16 MiB meets nginx's page of 183 bytes."""
    body = io.BytesIO(b"x" * (17 * 1024 * 1024))
    reply = await raw.send("POST", "/v1/images/generations", data=body)
    assert reply.status == 413
    assert len(reply.body) == 183

    async def pieces():
        for _ in range(17):
            yield b"x" * (1024 * 1024)

    chunked = await raw.send("POST", "/v1/images/generations", data=pieces())
    assert chunked.status == 413
    assert raw.emulator.requests == []


async def test_other_api_paths_are_invalid_urls(raw):
    """A path under /v1 that is not there is a JSON 404, whatever the method."""
    for method, path in (("POST", "/v1/x"), ("GET", "/v1/images/generations"), ("GET", "/v1")):
        reply = await raw.send(method, path)
        assert reply.status == 404
        assert reply.json["error"]["message"].startswith(f"Invalid URL ({method} {path})")


async def test_paths_outside_the_api_are_the_web_site(raw):
    """A base_url without /v1 meets an HTML page with status 200."""
    for method, path in (("GET", "/"), ("POST", "/api/images/generations")):
        reply = await raw.send(method, path)
        assert reply.status == 200
        assert reply.headers["Content-Type"].startswith("text/html")


async def test_models_are_listed(raw, run):
    """The list names the models that are served."""
    reply = await raw.get("/v1/models")
    assert [row["id"] for row in reply.json["data"]] == ["imagen4", "imagen4-fast", "imagen4-ultra"]
    async with run(models=["mine"]) as (_, other):
        assert [row["id"] for row in (await other.get("/v1/models")).json["data"]] == ["mine"]


async def test_model_without_a_channel_is_refused(run):
    """With a list of models, another one is a 503 that says model_not_found."""
    async with run(models=["imagen4"]) as (emulator, raw):
        reply = await raw.post(model="imagen5")
        assert (reply.status, reply.json["error"]["code"]) == (503, "model_not_found")
        assert "imagen5" in reply.json["error"]["message"]
        assert (await raw.post(model="imagen4")).status == 200
        assert emulator.ledger["A cat"].charged == 1


async def test_keys_are_asked_for_when_there_are_any(run):
    """Without a key, or with a wrong one, the answer is 401; with a right one it is 200."""
    async with run(keys={"sk-good"}) as (emulator, raw):
        assert (await raw.post()).status == 401
        assert (await raw.post(key="sk-bad")).status == 401
        assert (await raw.post(key="sk-good")).status == 200
        account = emulator.ledger["A cat"]
        assert (account.posts, account.refused, account.charged) == (3, 2, 1)


async def test_openai_dialect_speaks_as_openai_does(run):
    """The openai dialect has usage and its own error envelope and headers."""
    async with run(dialect="openai", keys={"sk"}) as (_, raw):
        reply = await raw.post(key="sk", model="gpt-image-1")
        assert set(reply.json["data"][0]) == {"b64_json", "revised_prompt"}
        assert reply.json["usage"]["total_tokens"] > 0
        assert reply.headers["x-request-id"].startswith("req_")
        refused = await raw.post()
        assert refused.status == 401
        assert set(refused.json["error"]) == {"message", "type", "param", "code"}
        assert refused.json["error"]["param"] is None
        assert "request id" not in refused.json["error"]["message"]


async def test_newapi_dialect_fills_empty_strings_and_ignores_the_format(run):
    """new-api sends base64 for imagen models whatever was asked, with empty strings beside it."""
    async with run(dialect="newapi", language="zh") as (_, raw):
        reply = await raw.post(model="imagen4", response_format="url")
        (item,) = reply.json["data"]
        assert (item["url"], item["revised_prompt"]) == ("", "")
        assert base64.b64decode(item["b64_json"]).startswith(PNG)
        (item,) = (await raw.post(model="dall-e-3")).json["data"]
        assert item["url"].startswith("http")
        assert item["b64_json"] == ""
        refused = await raw.post(fault="403_quota")
        assert refused.json["error"]["code"] == "insufficient_user_quota"
        assert "额度不足" in refused.json["error"]["message"]
        assert refused.json["error"]["type"] == "new_api_error"


async def test_request_ids_differ_and_stand_in_header_and_message(raw):
    """An error's message ends in the id that the header carries, and no two ids are the same."""
    first, second = await raw.post(fault="500"), await raw.post(fault="500")
    found = re.search(r"\(request id: (\w+)\)$", first.json["error"]["message"])
    assert found[1] == first.headers["X-Oneapi-Request-Id"]
    assert first.headers["X-Oneapi-Request-Id"] != second.headers["X-Oneapi-Request-Id"]


async def test_files_are_validated_by_etag_and_unknown_ones_are_404(raw):
    """A file not changed is a 304, one never made is a 404, and HEAD counts no download."""
    (item,) = (await raw.post()).json["data"]
    first = await raw.get(item["url"])
    again = await raw.get(item["url"], headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
    assert (await raw.send("HEAD", item["url"])).status == 200
    assert (await raw.get("/files/nothing.png")).status == 404
    assert raw.emulator.ledger["A cat"].downloads == 1


async def test_links_expire(run):
    """A link past its time is an object store's 403, and costs no download."""
    async with run(url_ttl=1e-6) as (emulator, raw):
        (item,) = (await raw.post()).json["data"]
        reply = await raw.get(item["url"])
        assert (reply.status, reply.headers["Content-Type"]) == (403, "application/xml")
        assert b"expired" in reply.body
        assert emulator.ledger["A cat"].downloads == 0
