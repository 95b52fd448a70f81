"""One HTTP exchange: a body sent, an answer decoded as it streams, a Reply or a Judgement."""

from __future__ import annotations

import codecs
import contextlib
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs
from yarl import URL

from imagen_async.errors import ConfigurationError
from imagen_async.policy.retry_after import retry_after
from imagen_async.session.call import FailedAttempt
from imagen_async.session.transport import ExchangeError, Receiver, timeouts
from imagen_async.storage.disk import TROUBLE
from imagen_async.wire.decoder import AnswerDecoder, AnswerError, AnswerLimits, Embedded
from imagen_async.wire.error_body import BODY_LIMIT, is_error, is_task, request_id
from imagen_async.wire.mask import MaskedHeaders
from imagen_async.wire.response import NAMELESS, Answer, Item, structure_answer
from imagen_async.wire.task import Task, find_task, finished_answer
from imagen_async.wire.verdict import (
    FailureKind,
    Judgement,
    judge_empty,
    judge_error_document,
    judge_failure,
    judge_spoiled,
    judge_status,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imagen_async.session.call import Call
    from imagen_async.session.config import Config
    from imagen_async.session.connection import SentFlagPayload
    from imagen_async.session.transport import Head, Transport
    from imagen_async.wire.decoder import Sink
    from imagen_async.wire.mask import Mask


def prepare() -> None:
    """Import all that an answer may need: once it is paid for, an import that fails loses it.

    Raises:
        ConfigurationError: If that cannot be; nothing was sent.
    """
    try:
        for module in ("wire.cost", "session.tasks", "storage.save"):
            import_module(f"imagen_async.{module}")
        with contextlib.suppress(RuntimeError):  # the interpreter ends: no thread looks up a host
            import_module("concurrent.futures.thread")
        for codec in ("idna", "utf-8-sig"):
            codecs.lookup(codec)
    except TROUBLE as error:
        raise ConfigurationError(
            f"What an answer needs cannot be loaded ({type(error).__name__}), so nothing is sent: "
            "free memory and descriptors, or install the package anew."
        ) from None


class Reply(NamedTuple):
    """A paid answer that can be used.

    Args:
        answer: Its items; the bytes of embedded images lie in their sinks.
        status: Its HTTP status.
        headers: Its headers, masked.
        request_id: The gateway's id of it.
        task: Where its images are to be collected, if there are none in it yet.
    """

    answer: Answer
    status: int
    headers: MaskedHeaders
    request_id: str | None
    task: Task | None = None


class AnswerText(Receiver):
    """Decodes a body; an error of the decoder ends the reading, not the exchange.

    Args:
        open_sink: Makes the sink of one image.
        limits: How much is taken.
    """

    __slots__ = ("began", "decoder", "error", "failed", "full", "head")

    def __init__(self, open_sink: Callable[[], Sink], limits: AnswerLimits) -> None:
        self.decoder: AnswerDecoder = AnswerDecoder(open_sink, limits)
        self.error: AnswerError | None = None
        self.full: bool = False
        self.began: bool = False
        self.failed: bool = False
        """Whether the status tells a failure, whose words are wanted too."""
        self.head: bytes = b""

    def feed(self, chunk: bytes, /) -> None:
        """Decode the next bytes."""
        # Gateways send spaces while they still draw: only what follows is an answer.
        self.began = self.began or bool(chunk.strip())
        if self.failed and len(self.head) < BODY_LIMIT:
            self.head += chunk[: BODY_LIMIT - len(self.head)]
        try:
            self.decoder.feed(chunk)
        except AnswerError as error:
            self.error = error
            self.full = True

    def silent(self, broken: ExchangeError) -> bool:
        """Return whether nothing of an answer came; what cannot be unpacked is some."""
        return not self.began and broken.kind is not FailureKind.BAD_ENCODING

    def discard(self) -> None:
        """Throw away what came: nobody waits for it any more."""
        for found in self.decoder.salvage():
            if isinstance(found, Embedded) and found.sink is not None:
                found.sink.discard()

    def answer_in_error(self) -> Answer:
        """Return what an error's body holds of images: an error may quote any others."""
        try:
            return structure_answer(self.document())
        except (AnswerError, *TROUBLE):
            found = [each for each in self.decoder.salvage() if isinstance(each, Embedded)]
            return _with(Answer(), found, "the answer was not whole") if found else Answer()

    def document(self) -> Any:
        """Return the whole document.

        Raises:
            AnswerError: If there is none.
        """
        if self.error is not None:
            raise self.error
        return self.decoder.finish()


class Attempt:
    """What every attempt of every call has in common.

    Here, and only here, the words of an answer pass the mask: before any of them is cut or told.

    Args:
        config: Of the client.
    """

    def __init__(self, config: Config) -> None:
        self._url = URL(f"{config.base_url}/images/generations")
        self._times = times = config.timeouts
        self._limits = AnswerLimits(max_image_bytes=config.limits.max_image_bytes)
        self._config = config
        self._timer = timeouts(times.answer, connect=min(times.connect, times.answer))

    async def make(
        self,
        transport: Transport,
        outgoing: SentFlagPayload,
        call: Call,
        left: float,
    ) -> Reply | FailedAttempt:
        """Send one request and judge what comes.

        Args:
            transport: Of the running loop.
            outgoing: The call's body, used once.
            call: What is sent; its store takes the images.
            left: Seconds until the call's deadline.
        """
        receiver = AnswerText(call.store.open, self._limits)

        def on_head(head: Head) -> Receiver:
            receiver.failed = not 200 <= head.status < 300
            return receiver

        limit = min(self._times.answer, left)
        timer = self._timer
        if limit < self._times.answer:
            timer = timeouts(limit, connect=min(self._times.connect, limit))
        try:
            head = await transport.post(self._url, outgoing, call.headers, timer, on_head)
        except ExchangeError as error:
            return self._broken(error, receiver, limit, call)
        except BaseException:
            receiver.discard()
            raise
        masked = MaskedHeaders(head.headers, self._config.mask)
        if receiver.failed:
            return self._refused(head.status, masked, receiver, call)
        return self._read(head.status, masked, receiver, call)

    def _broken(
        self,
        broken: ExchangeError,
        receiver: AnswerText,
        limit: float,
        call: Call,
    ) -> Reply | FailedAttempt:
        """Judge by what came before the break: a refusal, part of an answer, or nothing."""
        phase = self._phase(broken, limit)
        judgement = judge_failure(broken.kind, sent=broken.sent, detail=phase)
        if broken.head is None:
            return FailedAttempt(judgement)
        status, headers = broken.head.status, MaskedHeaders(broken.head.headers, self._config.mask)
        if receiver.failed:
            return self._refused(status, headers, receiver, call)
        if not receiver.silent(broken):
            result = _salvaged(status, headers, receiver, f"{phase}, in its body")
            if self._config.key_honoured and isinstance(result, FailedAttempt):
                return FailedAttempt(attrs.evolve(result.judgement, again=True))  # comes whole then
            return result
        # A head came, and nothing but blanks after it: support can tell what became of it.
        found = request_id(headers, None)
        return FailedAttempt(attrs.evolve(judgement, status=status, request_id=found))

    def _refused(
        self, status: int, headers: MaskedHeaders, receiver: AnswerText, call: Call
    ) -> Reply | FailedAttempt:
        mask = self._config.mask
        if (answer := receiver.answer_in_error()).items:  # whatever the status says, it is paid for
            note = f"the gateway answered {status}"
            answer = attrs.evolve(answer, problems=(*answer.problems, note))
            return Reply(masked(answer, mask), status, headers, request_id(headers, None))
        receiver.discard()
        judgement = judge_status(
            status,
            headers,
            receiver.head,
            key_used_before=call.key_used_before,
            key_honoured=self._config.key_honoured,
            server_errors_charged=self._config.retry.server_errors_charged,
            request=call.body,
            mask=mask,
        )
        return _failed(judgement, headers)

    def _phase(self, broken: ExchangeError, limit: float) -> str:
        if broken.kind is FailureKind.CONNECT_TIMEOUT:
            return f"no connection within {min(self._times.connect, limit):g} s"
        if broken.kind is FailureKind.TIMEOUT:
            whose = "answer" if limit == self._times.answer else "what was left of total"
            return f"no whole answer within {limit:.3g} s ({whose})"
        return broken.detail

    def _read(
        self, status: int, headers: MaskedHeaders, receiver: AnswerText, call: Call
    ) -> Reply | FailedAttempt:
        try:
            document = receiver.document()
            if isinstance(document, list) and len(document) == 1:
                document = document[0]
            answer = structure_answer(document)
            if not (answer.items or receiver.decoder.strays or is_error(document)):
                answer = _elsewhere(document, headers, status) or answer
        except AnswerError as error:
            if not receiver.began and receiver.error is None:
                return FailedAttempt(judge_empty(headers, status))
            return _salvaged(status, headers, receiver, error.reason, error.text)
        except TROUBLE as error:
            reason = f"this machine failed ({type(error).__name__})"
            return _salvaged(status, headers, receiver, reason)
        if receiver.decoder.strays:
            answer = _with(answer, receiver.decoder.strays, NAMELESS)
        if not answer.items:
            if (task := find_task(document, headers, status)) is not None:
                return Reply(answer, status, headers, request_id(headers, None), task)
            receiver.discard()
            judgement = judge_error_document(
                document,
                headers,
                status,
                server_errors_charged=self._config.retry.server_errors_charged,
                request=call.body,
                mask=self._config.mask,
            )
            if judgement is not None:
                return _failed(judgement, headers)
            reason = "; ".join(("no image in it, maybe it was filtered", *answer.problems))
            return FailedAttempt(judge_spoiled(reason, b"", headers, status))
        return Reply(masked(answer, self._config.mask), status, headers, request_id(headers, None))


def _elsewhere(document: Any, headers: MaskedHeaders, status: int) -> Answer | None:
    """Return what a whole answer holds where no image is expected; of a task it is nothing."""
    if find_task(document, headers, status) is not None or is_task(document):
        return None
    found = finished_answer(document)
    return None if found is None else structure_answer(found)


def masked(answer: Answer, mask: Mask) -> Answer:
    """Return an answer whose texts tell no secret; its links must stay as they are."""
    if answer.extras:
        mask.document(answer.extras)
    for place, item in enumerate(answer.items):
        prompt = item.revised_prompt
        if prompt and (shown := mask.text(prompt)) != prompt:
            items = list(answer.items)
            items[place] = attrs.evolve(item, revised_prompt=shown)
            answer = attrs.evolve(answer, items=tuple(items))
    return answer


def _failed(judgement: Judgement, headers: MaskedHeaders) -> FailedAttempt:
    asked = retry_after(headers, time.time())
    return FailedAttempt(judgement, judgement.asked if asked is None else asked)


def _salvaged(
    status: int, headers: MaskedHeaders, receiver: AnswerText, reason: str, text: bytes = b""
) -> Reply | FailedAttempt:
    """Keep the whole images and links of an answer that is not whole itself: they are paid for."""
    try:
        found = receiver.decoder.salvage()
    except TROUBLE:
        found = []
    if not found:
        return FailedAttempt(judge_spoiled(reason, text, headers, status))
    answer = _with(Answer(), found, f"the answer was not whole: {reason}")
    return Reply(answer, status, headers, request_id(headers, None))


def _with(answer: Answer, found: Sequence[Embedded | str], problem: str) -> Answer:
    items = [Item(url=each) if isinstance(each, str) else Item(embedded=each) for each in found]
    return attrs.evolve(answer, items=(*answer.items, *items), problems=(*answer.problems, problem))
