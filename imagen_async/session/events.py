"""What a client tells its ``on_event`` hook: frozen values, one class per thing that happened."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable

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

log: logging.Logger = logging.getLogger("imagen_async")
log.addHandler(logging.NullHandler())


class Listener:
    """Passes events to the hook and to the log of ``imagen_async``.

    Prompts are logged at DEBUG only. A hook that raises is logged and does not disturb the
    call, which may be paid for.

    Args:
        hook: Called on the event loop; it must not block.
    """

    __slots__ = ("_hook",)

    def __init__(self, hook: Callable[[Event], object] | None) -> None:
        self._hook = hook

    @property
    def wants(self) -> bool:
        """Whether anybody looks at the events of calls that go well."""
        return self._hook is not None or log.isEnabledFor(logging.DEBUG)

    def tell(self, event: Event) -> None:
        """Log an event and pass it on."""
        if isinstance(event, Retrying):
            log.info(
                "retrying in %.2f s after attempt %d: %s", event.wait, event.attempt, event.reason
            )
        elif isinstance(event, Throttled):
            log.info("all requests wait %.2f s: %s", event.wait, event.reason)
        elif isinstance(event, Failed):
            log.info("failed with charge %s: %s", event.error.charge, event.error)
        else:
            log.debug("%r", event)
        if self._hook is not None:
            try:
                self._hook(event)
            except Exception:
                log.exception("on_event raised")
