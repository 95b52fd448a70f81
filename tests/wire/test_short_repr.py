"""Reprs: short, and without what may be signed; and a charge, which is its word."""

from __future__ import annotations

import json
import pickle
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen_async.batch.records import KeptImage, KeptTask
from imagen_async.errors import Charge
from imagen_async.session.stream import Outcome
from imagen_async.wire.generation import Generation
from imagen_async.wire.image import Image
from imagen_async.wire.request import GenerationRequest
from imagen_async.wire.response import Item
from imagen_async.wire.task import Task

SIGNED = "https://canary:canary@cdn.example:8443/canary/a.png?X-Amz-Signature=canary#canary"


@pytest.mark.parametrize(
    "value",
    [
        Image(SIGNED),
        Task("t", SIGNED),
        Item(SIGNED),
        KeptImage(url=SIGNED),
        KeptTask(id="t", url=SIGNED),
        Generation(GenerationRequest("a"), (Image(SIGNED),)),
    ],
)
def test_a_link_is_shown_by_its_host_alone(value: object) -> None:
    """User, path, query and fragment may be signed; where it leads helps to find a problem."""
    shown = repr(value)

    assert "'https://cdn.example:8443/…'" in shown
    assert "canary" not in shown


@given(st.text() | st.text().map(lambda text: f"https://{text}"))
def test_no_link_breaks_a_repr_or_shows_its_end(url: str) -> None:
    """Whatever a gateway calls a link, its repr is one printable line without a query."""
    shown = repr(Image(url=url))

    assert shown.isprintable()
    assert "?" not in shown
    assert "#" not in shown


def test_what_holds_nothing_is_left_out() -> None:
    """A value shows the fields that were set, and bytes by their number."""
    image = Image(path=Path("shots/fox.png"), media_type="image/png", width=16, height=0)
    request = GenerationRequest("a fox", aspect_ratio="16:9", extra={"seed": 1})

    assert repr(image) == (
        f"Image(path={Path('shots/fox.png')!r}, media_type='image/png', width=16, height=0)"
    )
    assert repr(Image(data=b"abc")) == "Image(data=<3 bytes>)"
    assert repr(request) == (
        "GenerationRequest(prompt='a fox', aspect_ratio='16:9', extra={'seed': 1})"
    )
    assert repr(Generation(GenerationRequest("a"), ())) == (
        "Generation(request=GenerationRequest(prompt='a'), attempts=1)"
    )
    assert repr(Outcome(0, None, columns={"style": "ink"})) == (
        "Outcome(index=0, columns={'style': 'ink'})"
    )


def test_a_charge_is_its_word() -> None:
    """It compares, hashes, formats, serialises and is looked up as the text that it is."""
    assert json.dumps([*Charge]) == '["no", "maybe", "yes"]'
    assert [f"{charge}" for charge in Charge] == ["no", "maybe", "yes"]
    assert Charge.MAYBE == "maybe"
    assert {Charge.YES: 1}["yes"] == 1
    assert Charge("no") is Charge.NO
    assert [bool(charge) for charge in Charge] == [False, True, True]
    assert pickle.loads(pickle.dumps(Charge.YES)) is Charge.YES


def test_charges_are_ordered_by_what_they_cost() -> None:
    """The worst of any two is the greater one, by every comparison, and not by the alphabet."""
    assert sorted(Charge, reverse=True) == [Charge.YES, Charge.MAYBE, Charge.NO]
    for one, other in product(Charge, repeat=2):
        ranks = int(one), int(other)
        assert (one < other, one <= other) == (ranks[0] < ranks[1], ranks[0] <= ranks[1])
        assert (one > other, one >= other) == (ranks[0] > ranks[1], ranks[0] >= ranks[1])
        assert int(max(one, other)) == max(ranks)
        assert int(min(one, other)) == min(ranks)
    with pytest.raises(KeyError):
        _ = Charge.NO < "perhaps"
