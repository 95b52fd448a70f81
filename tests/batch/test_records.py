"""What the journal keeps, as text: the JSON of its version, there and back, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen_async.batch import schema
from imagen_async.batch.intake import RunOptions
from imagen_async.batch.records import (
    Item,
    KeptAnswer,
    KeptError,
    KeptImage,
    RefusedRow,
    RequestRow,
    decode,
    encode,
)
from imagen_async.errors import Charge, ConfigurationError, ImagenError
from imagen_async.wire.request import AspectRatio, GenerationRequest, ResponseFormat

TEXTS = {
    RequestRow: (
        '{"prompt":"a"}',
        (
            '{"id":"x","prompt":"a fox","model":"imagen4","aspect_ratio":"16:9",'
            '"response_format":"b64_json","n":2,"extra":{"seed":7,"style":{"x":[1,null]}}}'
        ),
        '{"prompt":"a","columns":{"style":"ink","tags":["a",null]}}',
    ),
    KeptError: (
        (
            '{"type":"RejectedError","message":"no","status":400,"code":"bad","charge":"no",'
            '"idempotency_key":"k","request_id":null}'
        ),
    ),
    KeptAnswer: (
        (
            '{"request_id":"r","created":1,"problems":["odd"],"after":2,"images":[{"file_name":'
            '"images/ab/a-ab12.png","width":16,"height":9,"media_type":"image/png","bytes":70,'
            '"sha256":"00","url":null,"revised_prompt":"a red fox"}]}'
        ),
        (
            '{"request_id":null,"created":null,"problems":[],"after":0,"images":[{"url":"https://x/y",'
            '"revised_prompt":null}]}'
        ),
    ),
    RefusedRow: (
        (
            '{"line":4,"id":null,"error":{"type":"InvalidRequestError","message":"empty",'
            '"status":null,"code":null,"charge":"maybe","idempotency_key":null,"request_id":null}}'
        ),
        (
            '{"line":4,"id":"x","columns":{"style":"ink"},"error":{"type":"InvalidRequestError",'
            '"message":"empty","status":null,"code":null,"charge":"no","idempotency_key":null,'
            '"request_id":null}}'
        ),
    ),
}
"""Texts of journals of this version, byte for byte; a change of them needs a new version."""
ANY = st.text(min_size=1).filter(str.strip)
NAMES = st.none() | st.text()
NUMBERS = st.none() | st.integers(0, 2**40)
REQUESTS = st.builds(
    GenerationRequest,
    ANY,
    model=st.none() | ANY,
    aspect_ratio=st.none() | st.sampled_from(AspectRatio),
    response_format=st.none() | st.sampled_from(ResponseFormat),
    n=st.none() | st.integers(1, 9),
    extra=st.dictionaries(st.text(), st.none() | st.integers() | st.lists(st.text())),
)
FILES = st.builds(
    KeptImage,
    file_name=st.text(min_size=1),
    width=NUMBERS,
    height=NUMBERS,
    media_type=NAMES,
    bytes=NUMBERS,
    sha256=NAMES,
    url=NAMES,
    revised_prompt=NAMES,
)
LINKS = st.builds(KeptImage, url=NAMES, revised_prompt=NAMES)
ERRORS = st.builds(
    KeptError,
    type=ANY,
    message=st.text(),
    status=NUMBERS,
    code=NAMES,
    charge=st.sampled_from(Charge),
    idempotency_key=NAMES,
    request_id=NAMES,
)
RECORDS = (
    st.builds(RequestRow, REQUESTS, NAMES, st.dictionaries(st.text(), NUMBERS | st.text()))
    | ERRORS
    | st.builds(
        KeptAnswer,
        request_id=NAMES,
        created=NUMBERS,
        problems=st.lists(st.text()).map(tuple),
        after=st.integers(0, 9),
        images=st.lists(FILES | LINKS).map(tuple),
    )
    | st.builds(
        RefusedRow,
        line=st.integers(1),
        id=NAMES,
        request=st.none() | REQUESTS,
        error=ERRORS,
        columns=st.dictionaries(st.text(), NAMES),
    )
)


@pytest.mark.parametrize(("kind", "texts"), TEXTS.items())
def test_the_json_is_that_of_its_version(kind: type[Any], texts: tuple[str, ...]) -> None:
    """What a journal of this version holds is read, and written again as the same bytes."""
    assert schema.VERSION == 4
    for text in texts:
        assert encode(decode(text, kind)) == text


@given(RECORDS)
def test_every_record_comes_back_as_it_was(record: Any) -> None:
    """Whatever its texts are, lone surrogates included, and its JSON is ASCII."""
    text = encode(record)
    assert text.isascii()
    assert decode(text, type(record)) == record


@pytest.mark.parametrize(("kind", "texts"), TEXTS.items())
def test_a_field_of_a_later_package_is_refused(kind: type[Any], texts: tuple[str, ...]) -> None:
    """It is not lost in silence: the text says what to do, and repeats nothing of the record."""
    for text in texts:
        later = {**json.loads(text), "refund": "secret"}
        with pytest.raises(ConfigurationError, match="upgrade") as caught:
            decode(json.dumps(later), kind)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"prompt":1}', '{"charge":"never"}'])
def test_a_damaged_record_is_refused(text: str) -> None:
    """Text that holds no record is one clear error, whatever is wrong with it."""
    for kind in (RequestRow, KeptError, RefusedRow):
        with pytest.raises(ConfigurationError, match="cannot read"):
            decode(text, kind)


def test_an_answer_may_hold_its_images_alone() -> None:
    """Version 2 kept no other field of images that a crash had left; they are read as unknown."""
    answer = decode('{"images":[{"file_name":"images/ab/a.png","bytes":1}]}', KeptAnswer)
    assert (list(answer.files), answer.request_id, answer.after) == (["images/ab/a.png"], None, 0)


@given(st.lists(FILES | LINKS), st.lists(FILES | LINKS))
def test_a_new_answer_keeps_the_files_of_the_old(old: Any, new: Any) -> None:
    """No file that is here is forgotten, none is listed twice, and the new ones come first."""
    before = Item(b"", 0, RequestRow(GenerationRequest("a")), answer=KeptAnswer(images=tuple(old)))
    after = before.answer_with(new)
    assert after.images[: len(new)] == tuple(new)
    assert set(after.files) == {each.file_name for each in (*old, *new)} - {None}
    added = [each.file_name for each in after.images[len(new) :]]
    assert len(added) == len(set(added))
    assert not set(added) & {each.file_name for each in new}


def test_of_an_error_its_record_is_kept_and_no_more() -> None:
    """Its images, which may hold bytes or signed links, and its cause are not."""
    names = {field.name for field in attrs.fields(KeptError)}
    error = ImagenError("no", charge=Charge.YES, status=500)
    assert KeptError.of(error) == KeptError(
        type="ImagenError", message="no", status=500, charge=Charge.YES
    )
    assert not names & {"images", "cause", "retry_after"}


@pytest.mark.parametrize("name", ["price_per_image", "budget", "give_up_after"])
@pytest.mark.parametrize("value", [float("inf"), float("nan"), 0, -1, True, "1"])
def test_numbers_without_a_bound_are_refused(name: str, value: Any) -> None:
    """A price without an end would make every budget worthless; one validator holds for all."""
    with pytest.raises(ConfigurationError, match=name):
        RunOptions(**{"price_per_image": 1.0, name: value})
