"""Tasks: the receipts that gateways give, and what their polls say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen_async.storage.sinks import MemorySink
from imagen_async.wire.base64_stream import Embedded
from imagen_async.wire.response import Item, structure_answer
from imagen_async.wire.task import Task, failure_in, find_task, finished_answer

LINK = "https://files.example/a.png"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["id", "task_id", "status", "data", "result", "images", "url", "b64_json", "error"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)

RECEIPTS: dict[str, tuple[int, dict[str, str], Any, Task | None]] = {
    "lemondata": (
        200,
        {},
        {"task_id": "t-1", "status": "pending", "poll_url": "https://api.example/v1/tasks/t-1"},
        Task("t-1", "https://api.example/v1/tasks/t-1"),
    ),
    "sub2api": (
        202,
        {"Retry-After": "3"},
        {"task_id": "t-1", "poll_url": "/v1/images/tasks/t-1"},
        Task("t-1", "/v1/images/tasks/t-1"),
    ),
    "apimart": (
        200,
        {},
        {"code": 200, "data": [{"status": "submitted", "task_id": "task_01"}]},
        Task("task_01"),
    ),
    "apib": (200, {}, {"data": {"status": "submitted", "task_id": "x"}}, Task("x")),
    "toapis": (200, {}, {"object": "generation.task", "id": "g1", "status": "queued"}, Task("g1")),
    "a 202 with an id and a Location": (
        202,
        {"Location": "/v1/jobs/7"},
        {"id": 7},
        Task("7", "/v1/jobs/7"),
    ),
    "an id of other signs": (200, {}, {"task_id": "a/b+c=="}, Task("a/b+c==")),
    "a place and no id": (
        202,
        {},
        {"status": "queued", "poll_url": "/v1/tasks/t-9?sign=1"},
        Task("t-9", "/v1/tasks/t-9?sign=1"),
    ),
    "an answer": (200, {}, {"id": "a", "data": [{"url": LINK}]}, None),
    "an answer of a gateway that gives it an id": (200, {}, {"id": "a", "data": []}, None),
    "an error": (200, {}, {"task_id": "t", "error": {"message": "no"}}, None),
    "an id that is a path": (200, {}, {"task_id": "../keys"}, None),
    "a list": (202, {}, [1, 2], None),
}


@pytest.mark.parametrize("name", RECEIPTS)
def test_a_receipt_is_told_from_an_answer(name: str) -> None:
    """Each gateway's receipt gives its task; answers, errors and unusable ids give none."""
    status, headers, document, task = RECEIPTS[name]

    assert find_task(document, headers, status) == task


POLLS: dict[str, tuple[Any, list[str] | None, bool]] = {
    "lemondata": ({"status": "completed", "data": [{"url": LINK}]}, [LINK], False),
    "sub2api": ({"status": "completed", "result": {"data": [{"url": LINK}]}}, [LINK], False),
    "apimart": (
        {"data": {"status": "completed", "result": {"images": [{"url": [LINK, LINK]}]}}},
        [LINK, LINK],
        False,
    ),
    "links alone": ({"status": "succeeded", "output": {"image_urls": [LINK]}}, [LINK], False),
    "pending": ({"task_id": "t", "status": "processing", "data": []}, None, False),
    "pending without a word": ({"task_id": "t"}, None, False),
    "the request's own images": ({"status": "x", "request": {"image_urls": [LINK]}}, None, False),
    "failed": ({"task_id": "t", "status": "FAILED"}, None, True),
    "failed inside": ({"code": 200, "data": {"status": "failed"}}, None, True),
    "an error": ({"error": {"message": "no"}}, None, True),
}


@pytest.mark.parametrize("name", POLLS)
def test_a_poll_says_how_the_task_stands(name: str) -> None:
    """Images wherever a gateway puts them, a failure in its words, and else it goes on."""
    document, links, failed = POLLS[name]
    answer = finished_answer(document)
    found = [] if answer is None else structure_answer(answer).items

    assert (None if answer is None else [item.url for item in found]) == links
    assert (failure_in(document) is not None) is failed


IMAGE = Embedded(MemorySink())


@pytest.mark.parametrize(
    ("document", "item"),
    [
        ({"output": [LINK]}, Item(LINK)),
        ({"data": [{"image_url": {"url": LINK}}]}, Item(LINK)),
        ({"images": [IMAGE]}, Item(None, IMAGE)),
        ({"output": {"choices": [{"image_base64": IMAGE}]}}, Item(None, IMAGE)),
        ({"image": IMAGE, "finish_reason": "SUCCESS"}, Item(None, IMAGE)),
        ({"result": {"data": [{"b64_json": IMAGE, "url": LINK}]}}, Item(LINK, IMAGE)),
        ({"candidates": [{"content": {"parts": [{"inlineData": IMAGE}]}}]}, Item(None, IMAGE)),
        ({"url": LINK}, Item(LINK)),
        ({"url": "https://api.example/v1/tasks/1"}, None),
        ({"status": "queued", "image": LINK}, None),
        ({"status": "queued", "request": {"image": IMAGE}}, None),
        ({"output": ["a picture of a cat"]}, None),
    ],
)
def test_other_shapes_of_images_are_found(document: Any, item: Item | None) -> None:
    """An image is found where other gateways put it, and nothing else is taken for one."""
    answer = finished_answer(document)
    items = () if answer is None else structure_answer(answer).items
    assert items == ((item,) if item else ())


def test_places_to_ask_stay_under_the_base_url() -> None:
    """The gateway's own URL goes first, then the paths that gateways use, with the id quoted."""
    assert Task("a:b", "/v1/x").places("https://api.example/v1") == (
        "/v1/x",
        "https://api.example/v1/tasks/a%3Ab",
        "https://api.example/v1/images/tasks/a%3Ab",
        "https://api.example/v1/images/generations/a%3Ab",
    )


@given(document=JSON, status=st.sampled_from([200, 201, 202]))
def test_any_json_is_read(document: Any, status: int) -> None:
    """No document makes reading it fail, and one with an image in it is no receipt."""
    task = find_task(document, {}, status)
    failure_in(document)
    answer = finished_answer(document)
    if task is not None:
        assert task.id
    if answer is not None:
        assert answer["data"]
