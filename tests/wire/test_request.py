"""The request: what it takes, what it refuses, and the bytes that it sends."""

import enum
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen_async import AspectRatio, GenerationRequest, InvalidRequestError, ResponseFormat


class Count(enum.IntEnum):
    """A number that writes itself differently."""

    FEW = 3


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_only_what_was_set_is_sent() -> None:
    """A request with a prompt alone sends nothing but the prompt."""
    assert json.loads(GenerationRequest("a fox").encode()) == {"prompt": "a fox"}


def test_every_field_of_the_page_is_sent_by_its_name() -> None:
    """The page's fields and n go out under the wire's own names, as plain strings."""
    request = GenerationRequest(
        "A person walking in the forest",
        model="imagen4",
        aspect_ratio="1:1",
        response_format="url",
        n=2,
    )

    assert request.encode() == (
        b'{"model":"imagen4","prompt":"A person walking in the forest",'
        b'"response_format":"url","aspect_ratio":"1:1","n":2}'
    )
    assert request.aspect_ratio is AspectRatio.SQUARE
    assert request.response_format is ResponseFormat.URL


def test_extra_is_merged_last() -> None:
    """Extra may add fields, and say otherwise of those that the class knows."""
    request = GenerationRequest(
        "a fox", aspect_ratio="1:1", extra={"aspect_ratio": "21:9", "seed": 7}
    )

    assert json.loads(request.encode()) == {"prompt": "a fox", "aspect_ratio": "21:9", "seed": 7}


@given(prompt=st.text(min_size=1).filter(str.strip), extra=st.dictionaries(st.text(), JSON))
def test_any_text_and_json_arrive_as_they_are(prompt: str, extra: dict[str, Any]) -> None:
    """Any prompt and any JSON in extra are read back from the ASCII body as they were."""
    body = GenerationRequest(prompt, extra=extra).encode()

    assert body.isascii()
    assert json.loads(body) == {"prompt": prompt, **extra}


@given(
    prompt=st.text(min_size=1).filter(str.strip),
    model=st.none() | st.text(min_size=1).filter(str.strip),
    ratio=st.none() | st.sampled_from(AspectRatio),
    form=st.none() | st.sampled_from(ResponseFormat),
    n=st.none() | st.integers(1, 2**31 - 1) | st.just(Count.FEW),
)
def test_the_short_way_writes_what_json_does(
    prompt: str, model: str | None, ratio: AspectRatio | None, form: ResponseFormat | None, n: Any
) -> None:
    """A body without extra is byte for byte what the json module makes of it."""
    request = GenerationRequest(prompt, model=model, aspect_ratio=ratio, response_format=form, n=n)

    assert request.encode() == json.dumps(request.body(), separators=(",", ":")).encode("ascii")


def test_lone_surrogates_are_escaped() -> None:
    """A prompt that is no valid Unicode still makes a valid body."""
    assert b"\\ud800" in GenerationRequest("a \ud800 fox").encode()


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": " \n\t"}, "prompt is empty"),
        ({"prompt": None}, "NoneType"),
        ({"prompt": b"a fox"}, "bytes"),
        ({"aspect_ratio": "2:1"}, "1:1, 3:4, 4:3, 9:16, 16:9"),
        ({"aspect_ratio": 1.5}, "extra={'aspect_ratio'"),
        ({"aspect_ratio": ["1:1"]}, "1:1, 3:4"),
        ({"response_format": "png"}, "url, b64_json"),
        ({"model": ""}, "model"),
        ({"model": 4}, "model"),
        ({"n": 0}, "n must be"),
        ({"n": True}, "n must be"),
        ({"n": "2"}, "n must be"),
        ({"n": 2**31}, "n must be"),
        ({"extra": 7}, "extra must map"),
        ({"extra": {1: 2}}, "str keys"),
    ],
    ids=str,
)
def test_what_cannot_be_sent_is_refused_with_what_can(fields: dict[str, Any], names: str) -> None:
    """A bad value is refused before anything is sent, in one line that names what is allowed."""
    with pytest.raises(InvalidRequestError) as caught:
        GenerationRequest(**{"prompt": "a fox", **fields})

    assert names in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.verdict is None


@pytest.mark.parametrize(
    "value", [{1, 2}, float("nan"), b"x", object()], ids=lambda value: type(value).__name__
)
def test_extra_that_json_cannot_carry_is_refused(value: object) -> None:
    """A value that JSON has no form for is refused when the body is made."""
    with pytest.raises(InvalidRequestError, match="JSON cannot carry"):
        GenerationRequest("a fox", extra={"x": value}).encode()


def test_extra_nested_too_deep_is_refused() -> None:
    """Nesting beyond Python's recursion is our error, not a RecursionError."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]

    with pytest.raises(InvalidRequestError):
        GenerationRequest("a fox", extra={"x": deep}).encode()


def test_a_foreign_ratio_cannot_drive_the_terminal() -> None:
    """A bad value is quoted without its control characters."""
    with pytest.raises(InvalidRequestError) as caught:
        GenerationRequest("a fox", aspect_ratio="\x1b[2J\u202e")

    assert "\x1b" not in str(caught.value)
    assert "\u202e" not in str(caught.value)


def test_a_request_is_a_value() -> None:
    """Requests compare by content, hash, pickle, and do not change with the mapping given."""
    extra = {"seed": 1}
    request = GenerationRequest("a fox", extra=extra)
    extra["seed"] = 2

    assert request == GenerationRequest("a fox", extra={"seed": 1})
    assert hash(request) == hash(GenerationRequest("a fox", extra={"seed": 1}))
    assert pickle.loads(pickle.dumps(request)) == request
    with pytest.raises(AttributeError):
        request.prompt = "a crow"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("ratio", "size"),
    [
        ("1:1", (1024, 1024)),
        ("3:4", (896, 1280)),
        ("4:3", (1280, 896)),
        ("9:16", (768, 1408)),
        ("16:9", (1408, 768)),
    ],
)
def test_ratios_have_the_sizes_of_the_page(ratio: str, size: tuple[int, int]) -> None:
    """Each of the five ratios has the pixel size that the page lists."""
    assert AspectRatio(ratio).size == size
    assert len(AspectRatio) == 5
