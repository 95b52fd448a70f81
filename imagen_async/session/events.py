"""What a client tells its ``on_event`` hook: frozen values, one class per thing that happened."""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING, TypeAlias

import attrs

from imagen_async.wire.short_repr import short_repr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from imagen_async.errors import Charge, ImagenError, Verdict
    from imagen_async.wire.generation import Generation
    from imagen_async.wire.image import Image
    from imagen_async.wire.request import GenerationRequest


@attrs.frozen(eq=False, repr=False)
class CallEvent:
    """Something that happened to one call.

    Args:
        call_id: Of the call, unlike that of any other call of this process.
        request: What is asked.
        idempotency_key: Of all its attempts; calls that were given the same one share it.
    """

    call_id: int
    request: GenerationRequest
    idempotency_key: str
    __repr__ = short_repr


class Queued(CallEvent):
    """A call asked for a slot; exactly one Done, Failed or Cancelled of it follows."""

    __slots__ = ()


@attrs.frozen(eq=False, repr=False)
class Sent(CallEvent):
    """An attempt is about to be sent; ``attempt`` counts from 1."""

    attempt: int


@attrs.frozen(eq=False, repr=False)
class Retrying(CallEvent):
    """An attempt ended without an image and the call will try again after ``wait`` seconds."""

    attempt: int
    verdict: Verdict
    charge: Charge
    reason: str
    wait: float


@attrs.frozen(eq=False, repr=False)
class Throttled(CallEvent):
    """The gate of the whole client closed for ``wait`` seconds, by what this call was told."""

    reason: str
    wait: float


class Received(CallEvent):
    """A paid answer came, and its links are downloaded now."""

    __slots__ = ()


@attrs.frozen(eq=False, repr=False)
class Downloaded(CallEvent):
    """The image of a link is here."""

    image: Image


@attrs.frozen(eq=False, repr=False)
class Done(CallEvent):
    """A call brought images; they are here even if who waits for them is cancelled meanwhile."""

    generation: Generation


@attrs.frozen(eq=False, repr=False)
class Failed(CallEvent):
    """A call ended in an error."""

    error: ImagenError


@attrs.frozen(eq=False, repr=False)
class Cancelled(CallEvent):
    """A call was given up: it was cancelled, or an interrupt or a foreign error ended it.

    Args:
        charge: The worst over all its attempts.
        attempts: How many HTTP exchanges it began.
        images: What had come: files, bytes, and links that were not all fetched.
        task_id: The gateway's name of the task that was to bring the images.
    """

    charge: Charge
    attempts: int
    images: tuple[Image, ...]
    task_id: str | None = None


Event: TypeAlias = (
    Queued | Sent | Retrying | Throttled | Received | Downloaded | Done | Failed | Cancelled
)
Named: TypeAlias = "tuple[int, GenerationRequest, str]"
"""What each event of one call begins with: its id, its request, its key."""
Hook: TypeAlias = "Callable[[Event], object]"
OnEvent: TypeAlias = "Hook | Iterable[Hook]"
"""What ``on_event`` may be."""

new_id: Callable[[], int] = itertools.count(1).__next__
"""Return an id that no other call of this process has."""
log: logging.Logger = logging.getLogger("imagen_async")
log.addHandler(logging.NullHandler())


class Listener:
    """Passes events to the hooks and to the log of ``imagen_async``.

    Prompts are logged at DEBUG only. A hook that raises is logged and disturbs neither the other
    hooks nor the call, which may be paid for.

    Args:
        hooks: Called on the event loop, in turn; they must not block.
    """

    __slots__ = ("_hooks",)

    def __init__(self, hooks: tuple[Hook, ...]) -> None:
        self._hooks = hooks

    @property
    def wants(self) -> bool:
        """Whether anybody looks at the events of calls that go well."""
        return bool(self._hooks) or log.isEnabledFor(logging.DEBUG)

    def tell(self, event: Event) -> None:
        """Log an event and pass it on."""
        _log(event)
        interrupt: BaseException | None = None
        for hook in self._hooks:
            try:
                hook(event)
            except Exception:
                log.exception("on_event raised")
            except BaseException as error:  # noqa: BLE001 - raised once all were told
                interrupt = error
        if interrupt is not None:
            try:
                raise interrupt
            finally:
                del interrupt


def _log(event: Event) -> None:
    if isinstance(event, Retrying):
        log.info("retrying in %.2f s after attempt %d: %s", event.wait, event.attempt, event.reason)
    elif isinstance(event, Throttled):
        log.info("all requests wait %.2f s: %s", event.wait, event.reason)
    elif isinstance(event, Failed):
        log.info("failed with charge %s: %s", event.error.charge, event.error)
    else:
        log.debug("%r", event)
