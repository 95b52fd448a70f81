"""What an attempt means, what it may have cost, and the errors that say so.

The tree, split by what the caller can do::

    ImagenError
    ├── ConfigurationError      fix how the client is set up
    │   └── ForkedClientError   make a client in the child process
    ├── InvalidRequestError     fix the request; no byte was sent
    ├── NotSentError            nothing reached the server: safe to run again
    ├── RefusedError            the server is busy: wait, then run again
    ├── QuotaError              the account is out of money or quota: top up
    ├── RejectedError           the server will never take this: change it
    ├── ServerFailedError       the server failed before it made an image
    ├── OutcomeUnknownError     an image may have been made and paid for
    ├── SpoiledAnswerError      paid, and the answer cannot be used
    ├── SaveError               paid, and the image cannot be written
    ├── DownloadError           paid, and the image cannot be fetched yet
    │   ├── ExpiredUrlError     the link, or the task, is dead
    │   └── UnfinishedTaskError the gateway still makes the image
    └── CallLogError            the gateway's log cannot be read: nothing is settled
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imagen_async.wire.image import Image


class Verdict(enum.StrEnum):
    """What one attempt, one HTTP exchange, ended as."""

    NOT_SENT = "not_sent"
    REFUSED = "refused"
    QUOTA = "quota"
    REJECTED = "rejected"
    FAILED = "failed"
    UNKNOWN = "unknown"
    SPOILED = "spoiled"
    DONE = "done"


class Charge(enum.StrEnum):
    """Whether money was spent, as a word; ordered so that ``max`` gives the worst.

    ``NO`` is false: ``if error.charge`` asks whether anything was or may have been charged.
    """

    NO = "no"
    MAYBE = "maybe"
    YES = "yes"

    def __bool__(self) -> bool:
        return self is not Charge.NO

    def __int__(self) -> int:
        return _RANKS[self]

    def __lt__(self, other: str) -> bool:
        return _RANKS[self] < _RANKS[other]

    def __le__(self, other: str) -> bool:
        return _RANKS[self] <= _RANKS[other]

    def __gt__(self, other: str) -> bool:
        return _RANKS[self] > _RANKS[other]

    def __ge__(self, other: str) -> bool:
        return _RANKS[self] >= _RANKS[other]


CHARGES: dict[int, Charge] = dict(enumerate(Charge))
"""Each charge at its place in the order, which is what the journal keeps of it."""
_RANKS: dict[str, int] = {charge: place for place, charge in CHARGES.items()}


class ImagenError(Exception):
    """The root of every error this package raises.

    Args:
        message: What happened, one line, free of secrets and terminal escapes.
        verdict: What the deciding attempt ended as; None if none was made.
        charge: The worst over all attempts of the call.
        status: The HTTP status of the deciding answer.
        code: The gateway's own error code, as text.
        request_id: The gateway's id of the deciding answer, for its support.
        attempts: How many HTTP exchanges the call began.
        sends: How often the request's body went out and was answered by neither a 429 nor the
            API's own refusal in JSON, in earlier runs of a batch too.
        idempotency_key: The key that every attempt of the call carried.
        retry_after: Seconds that the server asked to wait.
        images: What arrived whole all the same; they are paid for.
        task_id: The gateway's name of the task that was to bring the images.
    """

    advice: str = ""

    def __init__(
        self,
        message: str,
        *,
        verdict: Verdict | None = None,
        charge: Charge = Charge.NO,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        attempts: int = 0,
        sends: int = 0,
        idempotency_key: str | None = None,
        retry_after: float | None = None,
        images: Iterable[Image] = (),
        task_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.verdict = verdict
        self.charge = charge
        self.status = status
        self.code = code
        self.request_id = request_id
        self.attempts = attempts
        self.sends = sends
        self.idempotency_key = idempotency_key
        self.retry_after = retry_after
        self.images: tuple[Image, ...] = tuple(images)
        self.task_id = task_id

    @property
    def message(self) -> str:
        """What happened, without the advice."""
        return str(self.args[0]) if self.args else ""

    def __str__(self) -> str:
        parts = [self.message]
        if self.advice:
            parts.append(f"{cost_words(self)}; {self.advice}")
        if self.request_id:
            parts.append(f"(request id {self.request_id})")
        return " ".join(parts)


def cost_words(error: ImagenError) -> str:
    """Return what an error may have cost, in words that claim no more than is known.

    That nothing was charged is certain only where no body went out, or where the API itself
    turned each one away.
    """
    if error.charge is Charge.YES:
        return "It was charged"
    if error.charge is Charge.MAYBE:
        return "It may have been charged"
    return "It counts as not charged" if error.sends else "Nothing was charged"


class ConfigurationError(ImagenError):
    """The client is set up in a way that cannot work."""


class ForkedClientError(ConfigurationError):
    """The client was made before a fork; its sockets belong to the parent."""


class InvalidRequestError(ImagenError):
    """The request is wrong; no byte was sent."""


class NotSentError(ImagenError):
    """Every attempt ended before the request was sent; nothing was charged."""

    advice = "check the base URL and the network, then run it again."


class RefusedError(ImagenError):
    """The server turned the request away before doing any work."""

    advice = "wait, or lower concurrency or requests_per_minute."


class QuotaError(ImagenError):
    """The account has no money or quota left."""

    advice = "top up the account or use another key."


class RejectedError(ImagenError):
    """The server will not take this request as it is.

    Attributes:
        authentication: Whether the key is at fault: no other request will fare better.
    """

    advice: str = "change the request, the key or the base URL."
    authentication: bool = False

    def without_key(self) -> None:
        """Advise to give a key, if the key is at fault and none was sent."""
        if self.authentication:
            self.advice = "no key was sent: set IMAGEN_API_KEY, or pass api_key."


class ServerFailedError(ImagenError):
    """The server failed, and is known or stated to charge nothing for it."""

    advice = "run it again later."


class OutcomeUnknownError(ImagenError):
    """The request was sent and its outcome cannot be known."""

    advice = (
        "look into the gateway's log, or run it again and accept that it may be paid for twice."
    )


class SpoiledAnswerError(ImagenError):
    """The server answered with success, and the answer cannot be used."""

    advice = "show the request id to the gateway's support."


class SaveError(ImagenError):
    """The image was paid for and could not be written."""

    advice = "what came is on the error's images; make room or choose another folder."


class DownloadError(ImagenError):
    """The image was paid for and could not be downloaded; no new image is ordered for it."""

    advice = "its link is on the error's images: try the download again."


class ExpiredUrlError(DownloadError):
    """The link to the image, or the task that was to bring it, is dead."""

    advice = "ask the gateway for it by the request id."


class UnfinishedTaskError(DownloadError):
    """The gateway took the order as a task, and has not finished it yet."""

    advice = "a batch that is run again asks on; else ask the gateway by the task id."


class CallLogError(ImagenError):
    """The gateway's log of calls cannot be read; nothing is settled by it."""
