"""What an answer says that it cost; never guessed, and no price table."""

from __future__ import annotations

import math
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

HEADERS: Final = ("x-aimlapi-usd-spent", "x-litellm-response-cost")
"""Headers that tell US dollars (docs.aimlapi.com; docs.litellm.ai, response headers)."""
_MADE = ("output_tokens", "completion_tokens", "total_tokens", "generated_images")
_TICKS = Decimal(10**10)  # of a dollar, in xAI's usage.cost_in_usd_ticks (docs.x.ai)


@attrs.frozen
class Cost:
    """What the gateway says that a call cost.

    Args:
        amount: In the unit.
        unit: ``USD``.
        source: The header or field that told it.
    """

    amount: Decimal
    unit: str
    source: str


def reported_cost(headers: Mapping[str, str], extras: Mapping[str, Any]) -> Cost | None:
    """Return what an answer says that it cost, None if it does not.

    Args:
        headers: The answer's, a case-insensitive mapping.
        extras: The answer's fields beside its images.
    """
    for name in HEADERS:
        amount = _amount(headers.get(name))
        if amount is not None:
            return Cost(amount, "USD", name)
    usage = extras.get("usage")
    if not isinstance(usage, dict):
        return None
    amount = _amount(usage.get("cost_in_usd_ticks"), _TICKS)
    if amount is not None:
        return Cost(amount, "USD", "usage.cost_in_usd_ticks")
    amount = _amount(usage.get("cost"))  # OpenRouter, US dollars
    return None if amount is None else Cost(amount, "USD", "usage.cost")


def tells_a_cost(document: object, headers: Mapping[str, str]) -> bool:
    """Return whether an error says that it cost something: an amount, or what a model made."""
    extras = document if isinstance(document, dict) else {}
    cost, usage = reported_cost(headers, extras), extras.get("usage")
    made = map(usage.get, _MADE) if isinstance(usage, dict) else ()
    return (cost is not None and cost.amount > 0) or any(map(_amount, made))


def _amount(value: object, parts: Decimal = Decimal(1)) -> Decimal | None:
    """Return an amount from a number or its text, in parts of a unit; None from anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    try:
        amount = Decimal(str(value).strip()[:40]) / parts
    except InvalidOperation:
        return None
    return amount if amount.is_finite() and 0 <= amount < 10**9 else None
