"""AsyncImagen and Imagen against aioresponses: one answer at a time, without a server."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from aioresponses import aioresponses
from yarl import URL

from imagen_async import (
    AsyncImagen,
    Charge,
    Imagen,
    ImagenError,
    OutcomeUnknownError,
    QuotaError,
    RejectedError,
    RetryPolicy,
    Verdict,
)
from tests.chaos.server import PNG

BASE_URL = "https://gateway.example/v1"
ENDPOINT = f"{BASE_URL}/images/generations"
LINK = "https://93.184.216.34/a.png"
"""A literal address: a name would be looked up, which aioresponses does not catch."""
ANSWER = {"created": 1, "data": [{"url": LINK}]}
QUICK = RetryPolicy(backoff_base=0.001)


@pytest.fixture
def gateway() -> Iterator[aioresponses]:
    """Every request of this process, answered from a list."""
    with aioresponses() as mocked:
        yield mocked


def sent(gateway: aioresponses) -> list[Any]:
    """Return what each POST was called with."""
    return gateway.requests.get(("POST", URL(ENDPOINT)), [])


async def test_generate_posts_what_was_asked_and_returns_the_link(gateway: aioresponses) -> None:
    """The wire's own names go out as JSON, the key as Bearer, and the link comes back."""
    gateway.post(ENDPOINT, payload=ANSWER)
    async with AsyncImagen(base_url=BASE_URL, api_key="sk-1", model="imagen4") as imagen:
        generation = await imagen.generate("A fox", aspect_ratio="16:9", response_format="url")

    assert [image.url for image in generation.images] == [LINK]
    (call,) = sent(gateway)
    assert call.kwargs["headers"]["Authorization"] == "Bearer sk-1"
    assert json.loads(call.kwargs["data"].decode()) == {
        "prompt": "A fox",
        "model": "imagen4",
        "aspect_ratio": "16:9",
        "response_format": "url",
    }


async def test_generate_decodes_an_image(gateway: aioresponses) -> None:
    """The base64 of an answer is the image's bytes."""
    data = base64.b64encode(PNG).decode()
    gateway.post(ENDPOINT, payload={"created": 1, "data": [{"b64_json": data}]})
    async with AsyncImagen(base_url=BASE_URL, model="imagen4") as imagen:
        generation = await imagen.generate("A fox", response_format="b64_json")

    assert generation.images[0].data == PNG


async def test_read_fetches_the_link_without_the_key(gateway: aioresponses) -> None:
    """The image is fetched from where the answer says, and the key stays with the gateway."""
    gateway.get(LINK, body=PNG, content_type="image/png")
    gateway.post(ENDPOINT, payload=ANSWER)
    async with AsyncImagen(base_url=BASE_URL, api_key="sk-1", model="imagen4") as imagen:
        generation = await imagen.generate("A fox")
        assert await imagen.read(generation.images[0]) == PNG

    (call,) = gateway.requests[("GET", URL(LINK))]
    assert "Authorization" not in (call.kwargs["headers"] or {})


@pytest.mark.parametrize(
    ("status", "code", "kind", "charge"),
    [
        (400, "content_policy_violation", RejectedError, Charge.NO),
        (401, "invalid_api_key", RejectedError, Charge.NO),
        (429, "insufficient_quota", QuotaError, Charge.NO),
        (504, None, OutcomeUnknownError, Charge.MAYBE),
    ],
)
async def test_what_may_not_be_sent_again_is_sent_once(
    gateway: aioresponses, status: int, code: str | None, kind: type[ImagenError], charge: Charge
) -> None:
    """A rejection, an empty account and a lost answer each end the call at the first request."""
    error = {"error": {"message": "no", "code": code}}
    gateway.post(ENDPOINT, status=status, payload=error, repeat=True)
    async with AsyncImagen(base_url=BASE_URL, model="imagen4", retry=QUICK) as imagen:
        with pytest.raises(kind) as caught:
            await imagen.generate("A fox")

    assert caught.value.charge is charge
    assert len(sent(gateway)) == 1


async def test_an_overloaded_model_is_asked_again(gateway: aioresponses) -> None:
    """A refusal that the API states costs nothing: the second request brings the image."""
    overloaded = {"error": {"code": 503, "message": "The model is overloaded."}}
    gateway.post(ENDPOINT, status=503, payload=overloaded)
    gateway.post(ENDPOINT, payload=ANSWER)
    async with AsyncImagen(base_url=BASE_URL, model="imagen4", retry=QUICK) as imagen:
        generation = await imagen.generate("A fox")

    assert generation.attempts == 2
    assert len(sent(gateway)) == 2


async def test_generate_many_gives_each_prompt_its_outcome(gateway: aioresponses) -> None:
    """One prompt's rejection is its own outcome, and the others have their images."""
    refused = {"error": {"message": "no", "code": "content_policy_violation"}}
    gateway.post(ENDPOINT, payload=ANSWER)
    gateway.post(ENDPOINT, status=400, payload=refused)
    gateway.post(ENDPOINT, payload=ANSWER)
    async with (
        AsyncImagen(base_url=BASE_URL, model="imagen4") as imagen,
        imagen.generate_many(["a", "b", "c"]) as stream,
    ):
        outcomes = [outcome async for outcome in stream]

    assert sorted(outcome.index for outcome in outcomes) == [0, 1, 2]
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    assert [error.verdict for error in errors] == [Verdict.REJECTED]


def test_imagen_runs_the_same_calls_blocking(gateway: aioresponses) -> None:
    """The blocking client gives the link, and raises the error, of the same answers."""
    gateway.post(ENDPOINT, payload=ANSWER)
    gateway.post(ENDPOINT, status=504, body="<html>")
    with Imagen(base_url=BASE_URL, model="imagen4") as imagen:
        assert imagen.generate("A fox").images[0].url == LINK
        with pytest.raises(OutcomeUnknownError):
            imagen.generate("A crow")

    assert len(sent(gateway)) == 2
