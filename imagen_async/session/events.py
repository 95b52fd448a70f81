"""What a client tells its ``on_event`` hook: frozen values, one class per thing that happened."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import attrs

if TYPE_CHECKING:
    from imagen_async.errors import Charge, ImagenError, Verdict
    from imagen_async.wire.generation import Generation, Image
    from imagen_async.wire.request import GenerationRequest


@attrs.frozen
class Queued:
    """A call asked for a slot."""

    request: GenerationRequest
    idempotency_key: str


@attrs.frozen
class Sent:
    """An attempt is about to be sent; ``attempt`` counts from 1."""

    request: GenerationRequest
    idempotency_key: str
    attempt: int


@attrs.frozen
class Retrying:
    """An attempt ended without an image and the call will try again after ``wait`` seconds."""

    request: GenerationRequest
    idempotency_key: str
    attempt: int
    verdict: Verdict
    charge: Charge
    reason: str
    wait: float


@attrs.frozen
class Throttled:
    """The gate of the whole client closed for ``wait`` seconds."""

    reason: str
    wait: float


@attrs.frozen
class Downloaded:
    """The image of a link is here."""

    request: GenerationRequest
    idempotency_key: str
    image: Image


@attrs.frozen
class Done:
    """A call brought images."""

    request: GenerationRequest
    idempotency_key: str
    generation: Generation


@attrs.frozen
class Failed:
    """A call ended in an error."""

    request: GenerationRequest
    idempotency_key: str
    error: ImagenError


Event: TypeAlias = Queued | Sent | Retrying | Throttled | Downloaded | Done | Failed
