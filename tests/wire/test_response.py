"""An answer is read whatever the gateway's dialect."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagen_async.wire.decoder import AnswerError, Embedded
from imagen_async.wire.response import Answer, Item, structure_answer


class NullSink:
    def write(self, data: bytes | memoryview, /) -> None:
        pass

    def close(self) -> None:
        pass

    def discard(self) -> None:
        pass


WHOLE = Embedded(NullSink())
OTHER = Embedded(NullSink())
SPOILED = Embedded(None, "bad base64")


@pytest.mark.parametrize(
    ("value", "created"),
    [
        (1_700_000_000, 1_700_000_000),
        (1_700_000_000.9, 1_700_000_000),
        ("1700000000", 1_700_000_000),
        ("1700000000.5", 1_700_000_000),
        (0, 0),
        *(
            (junk, None)
            for junk in (
                *(None, True, "", "x", "1_0", "١٢", "1e9", "nan", [], {}, -1, 10**30),
                *(float("nan"), float("inf"), 1_700_000_000_000, "9" * 40),
            )
        ),
    ],
)
def test_created_is_read_from_any_number(value: object, created: int | None) -> None:
    """A number or its plain text is a time; anything else is none, and no error."""
    assert structure_answer({"created": value}).created == created


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"url": "https://x/1", "b64_json": None}, Item(url="https://x/1")),
        ({"url": "", "b64_json": WHOLE}, Item(embedded=WHOLE)),
        ({"url": None, "b64_json": WHOLE, "revised_prompt": "p"}, Item(None, WHOLE, "p")),
        ({"url": "u", "b64_json": WHOLE, "revised_prompt": ""}, Item("u", WHOLE)),
        ({"url": WHOLE}, Item(embedded=WHOLE)),
        ({"url": WHOLE, "b64_json": OTHER}, Item(embedded=OTHER)),
        ({"url": "u", "b64_json": "", "revised_prompt": 7, "width": 5}, Item("u")),
        ({"url": 5, "b64_json": WHOLE}, Item(embedded=WHOLE)),
        ({"image": {"parts": [1, WHOLE]}, "url": "u"}, Item("u", WHOLE)),
        ({"image_url": {"url": "u"}}, Item("u")),
    ],
)
def test_an_item_is_a_link_or_an_image_or_both(item: dict[str, Any], expected: Item) -> None:
    """Empty and null mean absent, and a data: URL is an image."""
    for document in ({"data": [item]}, {"data": item}, {"images": [item]}):
        assert structure_answer(document) == Answer(items=(expected,))


@pytest.mark.parametrize(
    ("item", "problem", "left"),
    [
        (None, "item 2 is not an object", None),
        ("a text", "item 2 is not an object", None),
        ({}, "item 2 holds no image", None),
        ({"url": None, "b64_json": "", "revised_prompt": "p"}, "item 2 holds no image", None),
        ({"b64_json": 5}, "item 2 holds no image", None),
        ({"url": 5}, "item 2 has a url that is not text", None),
        ({"b64_json": SPOILED}, "item 2 is spoiled: bad base64", None),
        ({"url": SPOILED}, "item 2 is spoiled: bad base64", None),
        ({"b64_json": SPOILED, "url": "u"}, "item 2 is spoiled: bad base64", Item("u")),
        ({"b64_json": SPOILED, "url": WHOLE}, "item 2 is spoiled: bad base64", Item(None, WHOLE)),
    ],
)
def test_an_odd_item_is_noted_and_costs_no_other(
    item: object, problem: str, left: Item | None
) -> None:
    """The items beside an odd one are kept, and what is left of it is used."""
    answer = structure_answer({"data": [{"url": "a"}, item, {"url": "b"}]})
    assert answer.problems == (problem,)
    assert answer.items == tuple(each for each in (Item("a"), left, Item("b")) if each)


@pytest.mark.parametrize("data", [None, [], {}, "", 0])
def test_no_data_is_no_items(data: object) -> None:
    """Data that is empty, null or missing gives no items, and no error."""
    assert structure_answer({"data": data}) == structure_answer({}) == Answer()


def test_both_envelopes_are_read() -> None:
    """Images under either name are paid for, so none is left."""
    answer = structure_answer({"images": [{"url": "b"}], "data": [{"url": "a"}], "usage": {"n": 1}})
    assert [item.url for item in answer.items] == ["a", "b"]
    assert answer.extras == {"usage": {"n": 1}}


def test_many_problems_are_summed_up() -> None:
    """A hostile list of nulls does not become as many notes."""
    answer = structure_answer({"data": [None] * 5000})
    assert len(answer.problems) == 21
    assert answer.problems[-1] == "and 4980 more like these"


def test_each_image_of_an_item_counts_and_so_does_one_outside() -> None:
    """What arrived is kept, wherever it stands; fields that hold images are no extras."""
    item = {"url": ["u", "v"], "images": [WHOLE, OTHER], "revised_prompt": "p"}
    document = {"data": [item, "https://x/1", OTHER], "more": {"x": [WHOLE]}, "usage": 1}
    assert structure_answer(document) == Answer(
        items=(
            *(Item("u", WHOLE, "p"), Item("v", OTHER, "p"), Item("https://x/1")),
            *(Item(embedded=OTHER), Item(embedded=WHOLE)),
        ),
        extras={"usage": 1},
        problems=("images came that no item names",),
    )
    assert structure_answer([{"url": "u"}, {"b64_json": WHOLE}]).items == (
        *(Item("u"), Item(embedded=WHOLE)),
    )
    assert structure_answer(WHOLE).items == (Item(embedded=WHOLE),)


@pytest.mark.parametrize("document", [None, "text", 5])
def test_a_document_that_is_no_object_is_an_error(document: object) -> None:
    """Only an object is an answer."""
    with pytest.raises(AnswerError, match="not an object"):
        structure_answer(document)


def test_a_link_does_not_show() -> None:
    """A signed link is not in the text of an item."""
    assert "signature" not in repr(structure_answer({"data": [{"url": "https://x?signature=1"}]}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(WHOLE),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["url", "b64_json", "data", "created", "x"]), inner)
    ),
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.sampled_from(["data", "images", "created", "error", "x"]), JSON))
def test_any_object_is_read(document: dict[str, Any]) -> None:
    """No object raises, each item can be used, and no note is long or foreign."""
    answer = structure_answer(document)
    assert all(item.url or item.embedded for item in answer.items)
    assert all(len(problem) < 60 and problem.isascii() for problem in answer.problems)


def test_links_over_the_number_of_images_are_dropped_and_told() -> None:
    """A list of thousands of links is not thousands of downloads; no image goes with them."""
    links = [{"url": f"https://x/{number}"} for number in range(500)]
    answer = structure_answer({"data": [*links, {"b64_json": WHOLE}]})
    assert [item.url for item in answer.items[:128]] == [link["url"] for link in links[:128]]
    assert [item.embedded for item in answer.items[128:]] == [WHOLE]
    assert answer.problems == ("372 links over the number of images",)
