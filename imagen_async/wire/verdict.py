"""What an attempt means and what it may have cost.

The table of answers is ``verdict_table.py``; here are the failures that brought no answer, what
each verdict costs, and the errors made of a judgement.
"""

from __future__ import annotations

import enum
import json
import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypedDict, Unpack

import attrs

from imagen_async.errors import (
    Charge,
    ImagenError,
    NotSentError,
    OutcomeUnknownError,
    QuotaError,
    RefusedError,
    RejectedError,
    ServerFailedError,
    SpoiledAnswerError,
    Verdict,
)
from imagen_async.wire.error_body import (
    BODY_LIMIT,
    ErrorBody,
    asked_wait,
    holds_image,
    is_error,
    is_task,
    read_error,
    read_error_body,
    request_id,
    tells_of_work,
)
from imagen_async.wire.look_up import OPEN, PENDING, Found, look_up, look_up_key
from imagen_async.wire.mask import NO_MASK, Mask
from imagen_async.wire.verdict_words import account, sentence

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from imagen_async.wire.image import Image


@attrs.frozen
class Judgement:
    """What one attempt ended as.

    Args:
        verdict: What it means.
        charge: What it may have cost.
        again: Whether it may be sent again; the retry policy and the charge cap decide further.
        message: What happened, one printable line.
        status: The HTTP status, if an answer came.
        code: The gateway's own code.
        request_id: The gateway's id of the answer.
        authentication: Whether the key is at fault: no other request will fare better.
        refusal: Whether the API itself turned the request away, by a 429 or in JSON.
        asked: Seconds that its words ask to wait.
        pending: Whether the first request under its key is still in the making.
    """

    verdict: Verdict
    charge: Charge
    again: bool
    message: str
    status: int | None = None
    code: str | None = None
    request_id: str | None = None
    authentication: bool = False
    refusal: bool = False
    asked: float | None = None
    pending: bool = False

    @property
    def counts(self) -> bool:
        """Whether its body went out and nothing but the table says what that cost."""
        return self.verdict is not Verdict.NOT_SENT and not self.refusal


class FailureKind(enum.StrEnum):
    """How an exchange broke without a usable answer, in words."""

    CONNECT = "No connection to the gateway could be made"
    CONNECT_TIMEOUT = "The gateway did not accept a connection in time"
    CERTIFICATE = "The gateway's certificate was not accepted"
    TLS = "The gateway does not speak TLS on that port"
    BAD_URL = "The base URL cannot be used"
    BAD_HEADER = "A header, such as the one of the key, cannot be sent"
    PROXY = "The proxy did not let the request through"
    TOO_MANY_FILES = "The process has too many files and sockets open"
    DROPPED = "The connection was lost before an answer came"
    TIMEOUT = "No whole answer came in time"
    PROTOCOL = "The answer was not readable as HTTP"
    CUT_BODY = "The answer was cut off"
    BAD_ENCODING = "The answer could not be decompressed"


CHARGES: Final[Mapping[Verdict, Charge]] = MappingProxyType(
    {
        Verdict.NOT_SENT: Charge.NO,
        Verdict.REFUSED: Charge.NO,
        Verdict.QUOTA: Charge.NO,
        Verdict.REJECTED: Charge.NO,
        Verdict.FAILED: Charge.NO,
        Verdict.UNKNOWN: Charge.MAYBE,
        Verdict.SPOILED: Charge.YES,
        Verdict.DONE: Charge.YES,
    }
)

ERRORS: Final[Mapping[Verdict, type[ImagenError]]] = MappingProxyType(
    {
        Verdict.NOT_SENT: NotSentError,
        Verdict.REFUSED: RefusedError,
        Verdict.QUOTA: QuotaError,
        Verdict.REJECTED: RejectedError,
        Verdict.FAILED: ServerFailedError,
        Verdict.UNKNOWN: OutcomeUnknownError,
        Verdict.SPOILED: SpoiledAnswerError,
    }
)

_AGAIN = frozenset({Verdict.NOT_SENT, Verdict.REFUSED, Verdict.FAILED, Verdict.UNKNOWN})
_PERMANENT = frozenset(
    {FailureKind.CERTIFICATE, FailureKind.TLS, FailureKind.BAD_URL, FailureKind.BAD_HEADER}
)
_STATUS = re.compile("[45][0-9]{2}")


def judge_failure(kind: FailureKind, *, sent: bool, detail: str = "") -> Judgement:
    """Judge an exchange that broke without a usable answer.

    Args:
        kind: How it broke.
        sent: Whether the body was handed to the socket.
        detail: The cause in the transport's words.
    """
    verdict = Verdict.UNKNOWN if sent else Verdict.NOT_SENT
    return Judgement(
        verdict,
        CHARGES[verdict],
        again=sent or kind not in _PERMANENT,
        message=sentence(kind, detail),
    )


def judge_status(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    key_used_before: bool = False,
    key_honoured: bool = False,
    server_errors_charged: bool = True,
    request: bytes = b"",
    mask: Mask = NO_MASK,
) -> Judgement:
    """Judge an answer that is not 2xx.

    Args:
        status: Its HTTP status.
        headers: Its headers, a case-insensitive mapping.
        body: Its body; the first 64 KiB are read.
        key_used_before: Whether an earlier attempt carried the same Idempotency-Key.
        key_honoured: Whether the gateway is known to honour such keys.
        server_errors_charged: Whether 500, 503 and 529 that the table does not know may have
            been charged.
        request: Its own body: words of its own prove nothing.
        mask: Put over the words that are told; the verdict goes by those that came.
    """
    envelope = read_error_body(body)
    found = look_up_key(status, envelope, used_before=key_used_before, honoured=key_honoured)
    if found is None:
        whole = body[:BODY_LIMIT].decode("utf-8", "replace")
        found = look_up(
            status,
            envelope,
            server_errors_charged=server_errors_charged,
            whole=whole,
            request=request,
        )
        if CHARGES[found.verdict] is Charge.NO and tells_of_work(whole, headers):
            found = OPEN
    return _answered(found, status, headers, read_error_body(body, mask))


def judge_error_document(
    document: object,
    headers: Mapping[str, str],
    status: int,
    *,
    server_errors_charged: bool = True,
    request: bytes = b"",
    mask: Mask = NO_MASK,
) -> Judgement | None:
    """Judge a 2xx answer whose JSON may be an error, or a task, in place of images.

    Args:
        document: The parsed JSON; anything truthy at an item's image keys is an image. The texts
            of an error are masked in it.
        headers: The answer's headers, a case-insensitive mapping.
        status: Its HTTP status.
        server_errors_charged: As in ``judge_status``, of an error that says 500, 503 or 529.
        request: As in ``judge_status``.
        mask: Put over the words that are told; the verdict goes by those that came.

    Returns:
        What it means; None if it holds an image, or neither an error nor a task.
    """
    if isinstance(document, list) and document:
        document = document[0]
    if holds_image(document):
        return None
    if is_error(document):
        return judge_failed_task(
            document,
            headers,
            status,
            server_errors_charged=server_errors_charged,
            request=request,
            mask=mask,
        )
    if is_task(document) or status == 202:
        return _spoiled("The gateway answered with a task without an id", headers, status)
    return None


def judge_failed_task(
    document: object,
    headers: Mapping[str, str],
    status: int,
    *,
    server_errors_charged: bool = True,
    polled: bool = False,
    request: bytes = b"",
    mask: Mask = NO_MASK,
) -> Judgement:
    """Judge the JSON of a 2xx answer that says of an order that it failed; see the arguments above.

    Only words that the table knows make it free: a task may be paid for although it failed. What
    a poll says (``polled``) with a 404 is that the task is not found, and not that none was made.
    """
    envelope = read_error(document) or ErrorBody()
    code = envelope.code or ""
    meant = int(code) if _STATUS.fullmatch(code) and not (polled and code == "404") else status
    whole = json.dumps(document, ensure_ascii=False, default=str)
    found = look_up(
        meant,
        envelope,
        server_errors_charged=server_errors_charged,
        inside=True,
        whole=whole,
        request=request,
    )
    from imagen_async.wire.cost import tells_a_cost  # loaded before anything is sent

    if CHARGES[found.verdict] is Charge.NO and tells_a_cost(document, headers):
        found = OPEN
    told = read_error(mask.document(document)) or ErrorBody()
    return _answered(found, status, headers, told)


def judge_spoiled(reason: str, text: bytes, headers: Mapping[str, str], status: int) -> Judgement:
    """Judge a 2xx answer that cannot be used.

    Args:
        reason: Why it cannot be used, one line.
        text: What is known of its text, for recognising a web page.
        headers: Its headers, a case-insensitive mapping.
        status: Its HTTP status.
    """
    if not read_error_body(text).html:
        return _spoiled("The gateway's answer cannot be used", headers, status, reason)
    return Judgement(
        Verdict.REJECTED,
        CHARGES[Verdict.REJECTED],
        again=False,
        message="The gateway answered with a web page: base_url seems wrong; does it end in /v1?",
        status=status,
        request_id=request_id(headers, None),
    )


def judge_empty(headers: Mapping[str, str], status: int) -> Judgement:
    """Judge a 2xx answer without a body: it tells neither of an image nor that there is none.

    Args:
        headers: Its headers, a case-insensitive mapping.
        status: Its HTTP status.
    """
    judgement = _answered(OPEN, status, headers, ErrorBody())
    return attrs.evolve(judgement, message=f"The gateway answered {status} with an empty body.")


class ErrorFields(TypedDict, total=False):
    """What the call knows and a judgement of one attempt does not."""

    charge: Charge
    attempts: int
    sends: int
    idempotency_key: str | None
    retry_after: float | None
    images: Iterable[Image]


def error_for(judgement: Judgement, **fields: Unpack[ErrorFields]) -> ImagenError:
    """Return the error of a judgement; ``fields`` win over the judgement's own.

    Args:
        judgement: Of the deciding attempt; never DONE.
        **fields: The worst charge of the call, its attempts, sends, key, retry_after and images.
    """
    known: ErrorFields = {
        "charge": judgement.charge,
        "sends": int(judgement.counts),
        **fields,
    }
    error = ERRORS[judgement.verdict](
        judgement.message,
        verdict=judgement.verdict,
        status=judgement.status,
        code=judgement.code,
        request_id=judgement.request_id,
        **known,
    )
    if isinstance(error, RejectedError):
        error.authentication = judgement.authentication
    return error


def _answered(
    found: Found, status: int, headers: Mapping[str, str], envelope: ErrorBody
) -> Judgement:
    verdict = found.verdict
    stop = (headers.get("x-should-retry") or "").strip().lower() == "false"
    return Judgement(
        verdict,
        CHARGES[verdict],
        again=verdict in _AGAIN and not stop,
        message=sentence(*account(found, status, headers, envelope)),
        status=status,
        code=envelope.code,
        request_id=request_id(headers, envelope.message),
        authentication=found.authentication,
        refusal=found.refusal,
        asked=asked_wait(envelope.message or "") if found.refusal else None,
        pending=found is PENDING,
    )


def _spoiled(
    what: str, headers: Mapping[str, str], status: int, words: str | None = None
) -> Judgement:
    return Judgement(
        Verdict.SPOILED,
        CHARGES[Verdict.SPOILED],
        again=False,
        message=sentence(what, words),
        status=status,
        request_id=request_id(headers, None),
    )
