"""What an answer says of its own cost."""

from __future__ import annotations

from typing import Any

TICKS = 10_000_000_000
"""xAI's ticks in a dollar."""


def cost_headers(name: str | None, usd: float) -> dict[str, str]:
    """Return the headers that tell a cost.

    Args:
        name: One of ``COSTS``, or None.
        usd: The cost.
    """
    if name == "aimlapi":
        return {"x-aimlapi-usd-spent": f"{usd:.9f}"}
    if name == "litellm":
        return {"x-litellm-response-cost": f"{usd}"}
    return {}


def with_cost(body: dict[str, Any], name: str | None, usd: float) -> dict[str, Any]:
    """Return a success body that tells its cost, if it is told there.

    Args:
        body: The success body.
        name: One of ``COSTS``, or None.
        usd: The cost.
    """
    told: dict[str, Any] = {}
    if name == "xai":
        told = {"cost_in_usd_ticks": round(usd * TICKS)}
    elif name == "openrouter":
        told = {"cost": usd}
    return body | {"usage": body.get("usage", {}) | told} if told else body
