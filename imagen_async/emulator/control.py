"""The emulator's own endpoints, under ``/_emulator/``: its books and its faults.

They are for whoever sits at this machine, and any web page can send to its loopback through a
browser. So names that only lead here are refused, and what changes something wants a content
type that a browser sends to no other origin without asking first.
"""

from __future__ import annotations

import ipaddress
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import attrs

from imagen_async.emulator.answers import JSON_TYPE, json_answer
from imagen_async.emulator.faults import as_rule

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from imagen_async.emulator.answers import Answer
    from imagen_async.emulator.gateway import Gateway

PREFIX = "/_emulator/"


def stranger(host: str, origin: str | None, bound: Container[str]) -> Answer | None:
    """Return the answer to a request that a web page of elsewhere sends; None for all others.

    Args:
        host: The ``Host`` header.
        origin: The ``Origin`` header.
        bound: The addresses that the emulator listens on.
    """
    try:
        name = (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        name = ""
    if origin not in (None, f"http://{host}") or not (name in bound or _is_loopback(name)):
        error = "This is for pages of the emulator's own address; ask it by 127.0.0.1."
        return json_answer({"error": error}, 403)
    return None


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def control(gateway: Gateway, method: str, name: str, raw: bytes, content_type: str) -> Answer:
    """Return the answer of a control endpoint.

    Args:
        gateway: Whose books and faults.
        method: The HTTP method.
        name: What follows the prefix in the path.
        raw: The request's body.
        content_type: Its label, without parameters.
    """
    methods = _ENDPOINTS.get(name, ())
    if not methods:
        return json_answer({"error": f"The endpoints are {', '.join(_ENDPOINTS)}."}, 404)
    if method not in methods:
        return json_answer({"error": f"{name} takes {', '.join(methods)}."}, 405)
    if method != "GET" and content_type != JSON_TYPE:
        return json_answer({"error": f"{method} {name} wants Content-Type: {JSON_TYPE}."}, 415)
    try:
        return json_answer(_done(gateway, method, name, raw))
    except (ValueError, RecursionError) as error:
        return json_answer({"error": str(error)}, 400)


def _done(gateway: Gateway, method: str, name: str, raw: bytes) -> dict[str, Any]:
    """Do what is asked and return what it is answered with."""
    plan = gateway.plan
    match name:
        case "health":
            uptime = round(gateway.now, 3)
            return {"status": "ok", "dialect": gateway.dialect.name, "uptime": uptime}
        case "ledger":
            return gateway.ledger.as_json()
        case "requests":
            return {"requests": [exchange.as_json() for exchange in gateway.log.newest]}
        case "reset":
            gateway.reset()
            return {"status": "reset"}
    if method == "POST":
        found = json.loads(raw)
        for rule in [as_rule(rule) for rule in (found if isinstance(found, list) else [found])]:
            plan.add(rule)
    elif method == "DELETE":
        plan.clear()
    return {"rules": [attrs.asdict(rule) for rule in plan.rules]}


_ENDPOINTS: Mapping[str, Sequence[str]] = {
    "health": ("GET",),
    "ledger": ("GET",),
    "requests": ("GET",),
    "plan": ("GET", "POST", "DELETE"),
    "reset": ("POST",),
}
"""What may be asked, and by which methods."""
