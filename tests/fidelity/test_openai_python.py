"""openai-python against the emulator: it gets its images, and sees the errors that it knows."""

from __future__ import annotations

import base64
import urllib.request
from typing import TYPE_CHECKING

import pytest

from imagen_async.emulator import Emulator
from imagen_async.wire.image_header import inspect

if TYPE_CHECKING:
    from tests.fidelity.conftest import Foreign

# The first test pays for the environment.
pytestmark = [pytest.mark.fidelity, pytest.mark.timeout(180)]

DIALECTS = ("page", "openai", "newapi")
HOWS = ("sync", "async")


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_base64_images_are_whole(openai_python: Foreign, dialect: str, how: str) -> None:
    """Every dialect's base64 answer is an ImagesResponse with whole images of the asked ratio."""
    with Emulator(dialect=dialect) as emulator:
        seen = openai_python.generate(
            emulator,
            how=how,
            n=2,
            response_format="b64_json",
            extra_body={"aspect_ratio": "16:9"},
        )
        assert (seen["type"], len(seen["images"])) == ("ImagesResponse", 2)
        for image in seen["images"]:
            media = inspect(base64.b64decode(image["b64_json"], validate=True))
            assert (media.media_type, media.complete) == ("image/png", True)
            assert media.width is not None
            assert media.height is not None
            assert media.width > media.height
        account = emulator.ledger["A lighthouse"]
        assert (account.posts, account.charged, account.images) == (1, 1, 2)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("dialect", ["page", "openai"])
def test_links_lead_to_images(openai_python: Foreign, dialect: str, how: str) -> None:
    """A link answer is an ImagesResponse whose link gives a whole image to any HTTP client."""
    with Emulator(dialect=dialect) as emulator:
        seen = openai_python.generate(emulator, how=how, response_format="url")
        (image,) = seen["images"]
        assert image["type"] == "Image"
        assert image["b64_json"] is None
        assert isinstance(seen["created"], int)
        with urllib.request.urlopen(image["url"]) as answer:
            media = inspect(answer.read())
        assert (media.media_type, media.complete) == ("image/png", True)
    assert emulator.ledger["A lighthouse"].downloads == 1


def test_the_service_s_own_fields_are_there(openai_python: Foreign) -> None:
    """The openai dialect carries the request id, usage and revised prompt where it looks."""
    with Emulator(dialect="openai") as emulator:
        seen = openai_python.generate(emulator)
        assert seen["request_id"].startswith("req_")
        assert seen["total_tokens"] > 0
        assert seen["revised_prompts"] == ["A lighthouse"]


def test_a_stream_is_read_by_its_own_types(openai_python: Foreign) -> None:
    """Its events are the library's: partial images in their order, then the image with usage."""
    with Emulator(dialect="openai") as emulator:
        asked = {"model": "gpt-image-1", "partial_images": 2, "quality": "high"}
        events = openai_python.generate(emulator, how="stream", **asked)["events"]
        assert [event["class"] for event in events] == [
            "ImageGenPartialImageEvent",
            "ImageGenPartialImageEvent",
            "ImageGenCompletedEvent",
        ]
        assert {event["quality"] for event in events} == {"high"}
        assert inspect(base64.b64decode(events[-1]["b64_json"], validate=True)).complete
        assert events[-1]["usage"]["total_tokens"] > 0
        emulator.assert_charged_once("A lighthouse")


def test_one_model_is_retrieved(openai_python: Foreign) -> None:
    """A model parses as the library's, and an unknown one is its NotFoundError."""
    with Emulator(dialect="openai") as emulator:
        known, unknown = {"model": "imagen4"}, {"model": "dall-e-9"}
        assert openai_python.ask(emulator, "model", arguments=known)["model"] == "imagen4"
        seen = openai_python.ask(emulator, "model", arguments=unknown)
        assert (seen["error"], seen["code"]) == ("NotFoundError", "model_not_found")


def test_models_are_listed(openai_python: Foreign) -> None:
    """The list of models parses as the library's page of models."""
    with Emulator(models=("imagen4", "imagen4-ultra")) as emulator:
        assert openai_python.ask(emulator, "models")["models"] == ["imagen4", "imagen4-ultra"]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("fault", "error", "status"),
    [
        ("429", "RateLimitError", 429),
        ("401", "AuthenticationError", 401),
        ("400", "BadRequestError", 400),
        ("402", "APIStatusError", 402),
        ("403_quota", "PermissionDeniedError", 403),
        ("status:404", "NotFoundError", 404),
        ("status:409", "ConflictError", 409),
        ("status:422", "UnprocessableEntityError", 422),
        ("500", "InternalServerError", 500),
        ("503", "InternalServerError", 503),
    ],
)
def test_refusals_are_the_errors_it_knows(
    openai_python: Foreign, dialect: str, how: str, fault: str, error: str, status: int
) -> None:
    """Each refusal is the library's own error, with the body's code and words, and is free."""
    with Emulator(dialect=dialect) as emulator:
        emulator.fail_next(fault)
        seen = openai_python.generate(emulator, how=how)
        assert (seen["error"], seen["status_code"]) == (error, status)
        assert seen["code"]
        assert seen["type"]
        assert str(status) in seen["message"]
        assert emulator.ledger.total.charged == 0


@pytest.mark.parametrize(
    ("dialect", "error", "code"),
    [
        ("openai", "RateLimitError", "insufficient_quota"),
        ("page", "PermissionDeniedError", "insufficient_user_quota"),
        ("newapi", "PermissionDeniedError", "insufficient_user_quota"),
    ],
)
def test_an_empty_balance_is_told_as_quota(
    openai_python: Foreign, dialect: str, error: str, code: str
) -> None:
    """A key without balance meets its dialect's quota error, after the images it could pay."""
    with Emulator(dialect=dialect, balance=1) as emulator:
        assert openai_python.generate(emulator)["type"] == "ImagesResponse"
        seen = openai_python.generate(emulator)
        assert (seen["error"], seen["code"]) == (error, code)
        assert emulator.ledger.total.charged == 1


def test_a_wrong_key_is_told(openai_python: Foreign) -> None:
    """A key that is not let in is an AuthenticationError; one that is gets its image."""
    with Emulator(keys={"sk-right"}) as emulator:
        arguments = {"model": "imagen4", "prompt": "A lighthouse"}
        wrong = openai_python.ask(emulator, "sync", key="sk-wrong", arguments=arguments)
        right = openai_python.ask(emulator, "sync", key="sk-right", arguments=arguments)
        assert (wrong["error"], wrong["code"]) == ("AuthenticationError", "invalid_api_key")
        assert right["type"] == "ImagesResponse"


def test_a_bad_request_names_its_field(openai_python: Foreign) -> None:
    """A request that nobody can serve is a BadRequestError whose param is the field."""
    with Emulator(dialect="openai") as emulator:
        seen = openai_python.generate(emulator, prompt="")
        assert (seen["error"], seen["param"]) == ("BadRequestError", "prompt")


def test_a_rate_of_its_own_making_is_told(openai_python: Foreign) -> None:
    """Over the requests per minute it meets a RateLimitError of the service's own code."""
    with Emulator(dialect="openai", rpm=1) as emulator:
        assert openai_python.generate(emulator)["type"] == "ImagesResponse"
        seen = openai_python.generate(emulator)
        assert (seen["error"], seen["code"]) == ("RateLimitError", "rate_limit_exceeded")


def test_its_retries_after_500_show_in_the_ledger(openai_python: Foreign) -> None:
    """Two 500s cost two requests and no charge, and the third attempt brings the image."""
    with Emulator() as emulator:
        emulator.fail_next("500", times=2)
        assert openai_python.generate(emulator, retries=2)["type"] == "ImagesResponse"
        account = emulator.ledger["A lighthouse"]
        assert (account.posts, account.refused, account.charged) == (3, 2, 1)


def test_it_waits_as_long_as_it_is_told(openai_python: Foreign) -> None:
    """A Retry-After of a second is a second's wait before its next attempt."""
    with Emulator() as emulator:
        emulator.fail_next("retry_after:1")
        seen = openai_python.generate(emulator, retries=1)
        assert seen["type"] == "ImagesResponse"
        assert seen["seconds"] >= 1.0


@pytest.mark.parametrize("fault", ["drop", "504", "cut"])
def test_a_lost_answer_makes_it_buy_again(openai_python: Foreign, fault: str) -> None:
    """After a lost answer its retry buys the image a second time, and the ledger shows it."""
    with Emulator() as emulator:
        emulator.fail_next(fault)
        assert openai_python.generate(emulator, retries=2)["type"] == "ImagesResponse"
    account = emulator.ledger["A lighthouse"]
    assert (account.posts, account.charged, account.delivered) == (2, 2, 1)


def test_a_lost_answer_is_a_connection_error(openai_python: Foreign) -> None:
    """Without retries a dropped connection is an APIConnectionError, and charged once."""
    with Emulator() as emulator:
        emulator.fail_next("drop")
        assert openai_python.generate(emulator)["error"] == "APIConnectionError"
        emulator.assert_charged_once("A lighthouse")
