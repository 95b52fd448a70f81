"""What clients made for OpenAI look for: events, what they asked for told again, single models."""

from __future__ import annotations

import base64
import json

import aiohttp
import pytest

from imagen_async import AsyncImagen, GenerationRequest
from imagen_async.emulator import Emulator
from imagen_async.wire.image_header import inspect

STREAM = {"model": "gpt-image-1", "stream": True}


def events_of(body: bytes) -> list[tuple[str, dict]]:
    """Return the events of a stream by name, each a line of its name and a line of JSON."""
    events = []
    for block in body.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        assert name.startswith("event: ")
        assert data.startswith("data: ")
        events.append((name[7:], json.loads(data[6:])))
    return events


async def test_a_stream_has_openais_events(run):
    """Partial images come first and are others than the final one, which tells the usage."""
    async with run(dialect="openai", draw="plain") as (emulator, raw):
        asked = {"partial_images": 2, "quality": "high", "size": "1536x1024"}
        reply = await raw.post("A cat", **STREAM, **asked)
        assert reply.status == 200
        assert reply.headers["Content-Type"].startswith("text/event-stream")
        assert "Content-Length" not in reply.headers
        events = events_of(reply.body)
        assert emulator.ledger["A cat"].charged == 1
    partial, completed = "image_generation.partial_image", "image_generation.completed"
    assert [name for name, _ in events] == [partial, partial, completed]
    assert [event["type"] for _, event in events] == [name for name, _ in events]
    images = [base64.b64decode(event["b64_json"], validate=True) for _, event in events]
    assert len(set(images)) == 3
    for (_, event), image in zip(events, images, strict=True):
        told = {name: event[name] for name in ("size", "quality", "background", "output_format")}
        assert told == {
            "size": "1536x1024",
            "quality": "high",
            "background": "opaque",
            "output_format": "png",
        }
        assert type(event["created_at"]) is int
        assert (inspect(image).width, inspect(image).height) == (1536, 1024)
    assert [event.get("partial_image_index") for _, event in events] == [0, 1, None]
    assert events[-1][1]["usage"]["total_tokens"] > 0


async def test_a_stream_of_several_images_tells_its_usage_once(run):
    """Each image is an event of its own."""
    async with run(dialect="openai") as (_, raw):
        events = events_of((await raw.post("A cat", **STREAM, n=3)).body)
    assert [name for name, _ in events] == ["image_generation.completed"] * 3
    assert ["usage" in event for _, event in events] == [False, False, True]


@pytest.mark.parametrize("dialect", ["page", "newapi"])
async def test_other_gateways_know_no_streams(run, dialect):
    """They take no notice of the field, and answer in JSON."""
    async with run(dialect=dialect) as (_, raw):
        assert (await raw.post("A cat", stream=True)).json["data"]


@pytest.mark.parametrize("fault", ["cut", "drop", "data_empty", "data_null", "bom"])
async def test_faults_strike_streams_too(run, fault):
    """A fault leaves a charge and an answer that is lost, broken or without an image."""
    async with run(dialect="openai") as (emulator, raw):
        if fault in ("cut", "drop"):
            with pytest.raises(aiohttp.ClientError):
                await raw.post("A cat", fault=fault, **STREAM)
        else:
            reply = await raw.post("A cat", fault=fault, **STREAM)
            assert (b"b64_json" in reply.body) is (fault == "bom")
        assert emulator.ledger["A cat"].charged == 1


async def test_the_sdk_reads_the_stream() -> None:
    """The final image is the one that comes back, and no partial one."""
    async with (
        Emulator(dialect="openai", draw="plain", report_cost="openrouter") as emulator,
        AsyncImagen(base_url=emulator.base_url, model="gpt-image-1") as imagen,
    ):
        extra = {"stream": True, "partial_images": 3}
        streamed = await imagen.generate(GenerationRequest("A cat", n=2, extra=extra))
        plain = await imagen.generate("A cat", n=2)
    assert [image.data for image in streamed.images] == [image.data for image in plain.images]
    assert streamed.created == plain.created or streamed.created is not None
    assert streamed.cost == plain.cost
    assert streamed.extras["usage"]["total_tokens"] == plain.extras["usage"]["total_tokens"]
    assert emulator.ledger.total.charged == 2


async def test_openai_tells_again_what_was_asked(run):
    """Size, quality, background and format are those of the order; what it left out is told too."""
    async with run(dialect="openai", draw="full") as (_, raw):
        asked = {"quality": "low", "background": "transparent", "output_format": "webp"}
        body = (await raw.post("A cat", model="gpt-image-1", size="640x320", **asked)).json
        data = base64.b64decode(body["data"][0]["b64_json"])
        assert {**asked, "size": "640x320"}.items() <= body.items()
        assert inspect(data).media_type == "image/webp"
        body = (await raw.post("A cat", model="gpt-image-1", size="auto", quality="auto")).json
        assert (body["size"], body["quality"]) == ("1024x1024", "medium")
        assert (body["background"], body["output_format"]) == ("opaque", "png")


async def test_the_format_that_is_told_is_the_one_that_is_drawn(run):
    """A gradient is a PNG whatever was asked, and the answer says so."""
    async with run(dialect="openai", draw="tiny", image_format="jpeg") as (_, raw):
        body = (await raw.post("A cat", model="gpt-image-1", output_format="webp")).json
        assert body["output_format"] == "png"
        assert inspect(base64.b64decode(body["data"][0]["b64_json"])).media_type == "image/png"


@pytest.mark.parametrize("value", ["loud", 7, 1.0, True, None, ["high"], {"a": 1}])
async def test_what_is_no_value_of_openais_is_not_told_again(run, value):
    """A field with any other value is left out of account, as by a gateway in front."""
    fields = ("quality", "background", "output_format", "stream", "partial_images")
    async with run(dialect="openai") as (_, raw):
        for name in fields:
            if (name, value) == ("stream", True) or (name == "partial_images" and value == 7):
                continue
            reply = await raw.post("A cat", model="gpt-image-1", **{name: value})
            assert (reply.status, reply.json["quality"]) == (200, "medium"), name


@pytest.mark.parametrize("dialect", ["page", "openai", "newapi"])
async def test_one_model_by_its_id(run, dialect):
    """A model of the list is told alone, also one with a slash; any other is 404."""
    models = ["imagen4", "google/imagen 4"]
    async with run(dialect=dialect, models=models) as (_, raw):
        listed = (await raw.get("/v1/models")).json["data"]
        for row, path in zip(listed, ("imagen4", "google%2Fimagen%204"), strict=True):
            assert (await raw.get(f"/v1/models/{path}")).json == row
        reply = await raw.get("/v1/models/dall-e-9")
        assert reply.status == 404
        error = reply.json["error"]
        assert (error["code"], error["param"]) == ("model_not_found", "model")
        assert "dall-e-9" in error["message"]


async def test_litellm_echoes_the_callers_id(run):
    """Such a gateway answers with the id it was given, or one of its own; the others do not."""
    sent = {"x-litellm-call-id": "mine"}
    async with run(call_log="litellm") as (_, raw):
        assert (await raw.post(headers=sent)).headers["x-litellm-call-id"] == "mine"
        assert (await raw.post()).headers["x-litellm-call-id"]
        assert (await raw.post(headers=sent, fault="429")).headers["x-litellm-call-id"] == "mine"
    async with run() as (_, raw):
        assert "x-litellm-call-id" not in (await raw.post(headers=sent)).headers
