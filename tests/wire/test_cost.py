"""What an answer says that it cost."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from imagen_async.wire.cost import Cost, reported_cost

TOLD: dict[str, tuple[dict[str, str], dict[str, Any], Cost | None]] = {
    "AIMLAPI": (
        {"X-AIMLAPI-USD-Spent": "0.0525"},
        {},
        Cost(Decimal("0.0525"), "USD", "x-aimlapi-usd-spent"),
    ),
    "LiteLLM": (
        {"x-litellm-response-cost": "4e-2"},
        {},
        Cost(Decimal("4e-2"), "USD", "x-litellm-response-cost"),
    ),
    "xAI": (
        {},
        {"usage": {"cost_in_usd_ticks": 200_000_000}},
        Cost(Decimal("0.02"), "USD", "usage.cost_in_usd_ticks"),
    ),
    "xAI, ten images": (
        {},
        {"usage": {"cost_in_usd_ticks": 7_000_000_000}},
        Cost(Decimal("0.7"), "USD", "usage.cost_in_usd_ticks"),
    ),
    "OpenRouter": ({}, {"usage": {"cost": 0.04}}, Cost(Decimal("0.04"), "USD", "usage.cost")),
    "free": (
        {"x-litellm-response-cost": "0"},
        {},
        Cost(Decimal(0), "USD", "x-litellm-response-cost"),
    ),
    "None in words": ({"x-litellm-response-cost": "None"}, {}, None),
    "no number": ({"x-litellm-response-cost": "NaN"}, {"usage": {"cost": True}}, None),
    "less than nothing": ({"x-litellm-response-cost": "-1"}, {}, None),
    "tokens alone": ({}, {"usage": {"total_tokens": 5}}, None),
    "nothing": ({}, {}, None),
}


@pytest.mark.parametrize("name", TOLD)
def test_a_cost_is_told_or_none(name: str) -> None:
    """Each gateway's own header or field gives the amount exactly; nothing else gives any."""
    headers, extras, cost = TOLD[name]

    assert reported_cost(CIMultiDict(headers), extras) == cost


@given(
    header=st.text(max_size=50),
    usage=st.none() | st.text() | st.dictionaries(st.just("cost"), st.floats() | st.text()),
)
def test_any_words_are_read(header: str, usage: Any) -> None:
    """Whatever stands there, the cost is a finite amount, not below nothing, or None."""
    cost = reported_cost({"x-aimlapi-usd-spent": header}, {"usage": usage})

    assert cost is None or (cost.amount.is_finite() and cost.amount >= 0)
