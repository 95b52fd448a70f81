"""Collect what a gateway answers later: a task is polled until its images are made.

A poll costs nothing, so it is tried again where the POST never is. It carries the API's key, so it
goes to the API's own origin alone, wherever the gateway says that the task is.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import anyio
import attrs
from yarl import URL

from imagen_async.errors import (
    Charge,
    ExpiredUrlError,
    ImagenError,
    UnfinishedTaskError,
    Verdict,
)
from imagen_async.policy.retry_after import retry_after
from imagen_async.session.attempt import AnswerText, Reply, masked
from imagen_async.session.transport import ExchangeError, timeouts
from imagen_async.wire.decoder import AnswerError, AnswerLimits
from imagen_async.wire.error_body import request_id
from imagen_async.wire.mask import MaskedHeaders
from imagen_async.wire.response import structure_answer
from imagen_async.wire.task import failure_in, finished_answer, has_failed
from imagen_async.wire.text import printable
from imagen_async.wire.verdict import error_for, judge_failed_task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from multidict import CIMultiDict

    from imagen_async.policy.config import Timeouts
    from imagen_async.policy.deadline import Deadline
    from imagen_async.session.transport import Head, Receiver, Transport
    from imagen_async.wire.decoder import Sink
    from imagen_async.wire.mask import Mask
    from imagen_async.wire.task import Task

PAUSES: Final = (2.0, 3.0, 5.0, 8.0)
"""Seconds between two polls of a gateway that does not say; the last one for the rest."""
LONGEST_PAUSE: Final = 60.0
"""Seconds; whatever a gateway says, it is asked again after this."""
MISSES: Final = 3
"""How often in a row no place may know a task: it may be written a moment after its receipt."""
_ABSENT = frozenset({400, 404, 405, 410, 501})
_FORBIDDEN = frozenset({401, 403})


@attrs.frozen
class _Poll:
    """What one poll came to.

    Args:
        result: The end of the task; None while it is under way.
        known: Whether it is known there.
        absent: Whether nothing is known of it there.
        asked: Seconds that the gateway asked to wait.
        problem: Why the poll itself failed.
    """

    result: Reply | ImagenError | None = None
    known: bool = False
    absent: bool = False
    asked: float | None = None
    problem: str = ""


@attrs.frozen
class TaskCollector:
    """Polls the tasks of one client.

    Args:
        base_url: The API's.
        headers: What every request to it carries.
        times: Its ``connect`` and ``answer`` are those of one poll.
        max_image_bytes: The most bytes of one image.
        server_errors_charged: As the retry policy says.
        mask: Over the client's secrets.
        sleep: Waits for seconds.
    """

    base_url: str
    headers: CIMultiDict[str]
    times: Timeouts
    max_image_bytes: int
    server_errors_charged: bool
    mask: Mask
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep

    async def collect(
        self,
        transport: Transport,
        task: Task,
        *,
        open_sink: Callable[[], Sink],
        deadline: Deadline,
        request: bytes = b"",
    ) -> Reply | ImagenError:
        """Poll a task to its end.

        Args:
            transport: Of the running loop.
            task: What to ask for.
            open_sink: Gives a place for the next image that comes as bytes.
            deadline: When to give up for now: a later run may ask again.
            request: The order's body: a failure may quote it.

        Returns:
            The answer, or the error that the task ended as. An UnfinishedTaskError may
            pass; an ExpiredUrlError says that the gateway does not know the task any more.
        """
        clock = asyncio.get_running_loop().time
        places, misses, polls, problem = self._places(task), 0, 0, ""
        while deadline.left(clock()) > 0:
            left = deadline.left(clock())
            poll = await self._poll(transport, places[0], open_sink, left, request)
            if isinstance(poll.result, ImagenError):
                poll.result.task_id = task.id
            if poll.result is not None:
                return poll.result
            if poll.absent:
                places.append(places.pop(0))
                misses += 1
                if misses % len(places):
                    continue  # the next place, at once
                if misses >= MISSES * len(places):
                    return _lost(task)
            else:
                misses, problem = 0, poll.problem
                if poll.known:
                    del places[1:]
            usual = PAUSES[min(polls, len(PAUSES) - 1)]
            wait = min(usual if poll.asked is None else poll.asked, LONGEST_PAUSE)
            polls += 1
            await self.sleep(min(wait, max(0.0, deadline.left(clock()))))
        return _unfinished(task, deadline.total, problem)

    def _places(self, task: Task) -> list[URL]:
        base = URL(self.base_url)
        found = []
        for place in task.places(self.base_url):
            try:
                url = base.join(URL(place))
                if url.origin() == base.origin() and url not in found:
                    found.append(url)
            except ValueError:
                continue
        return found

    async def _poll(
        self,
        transport: Transport,
        url: URL,
        open_sink: Callable[[], Sink],
        left: float,
        request: bytes,
    ) -> _Poll:
        receiver = AnswerText(open_sink, AnswerLimits(max_image_bytes=self.max_image_bytes))
        limit = min(self.times.answer, left)
        timer = timeouts(limit, connect=min(self.times.connect, limit))

        def on_head(head: Head) -> Receiver:
            receiver.full = head.status not in (200, 201, 202)
            return receiver

        try:
            head = await transport.ask(url, self.headers, timer, on_head)
        except ExchangeError as error:
            receiver.discard()
            return _Poll(problem=error.detail)
        except BaseException:
            receiver.discard()
            raise
        headers = MaskedHeaders(head.headers, self.mask)
        if not 200 <= head.status < 300:
            receiver.discard()
            absent = head.status in _ABSENT
            if head.status in _FORBIDDEN:
                return _Poll(problem=f"the gateway answered {head.status}: is the key still valid?")
            asked = retry_after(headers, time.time())
            return _Poll(absent=absent, asked=asked, problem=f"the gateway answered {head.status}")
        return self._read(head.status, headers, receiver, request)

    def _read(
        self,
        status: int,
        headers: MaskedHeaders,
        receiver: AnswerText,
        request: bytes,
    ) -> _Poll:
        try:
            document = receiver.document()
        except AnswerError as error:
            receiver.discard()
            return _Poll(problem=error.reason)
        found = finished_answer(document)
        if found is not None:
            answer = masked(structure_answer(found), self.mask)
            if answer.items:
                return _Poll(Reply(answer, status, headers, request_id(headers, None)))
        receiver.discard()
        failure = failure_in(document)
        if failure is not None:
            judgement = judge_failed_task(
                failure,
                headers,
                status,
                server_errors_charged=self.server_errors_charged,
                polled=True,
                request=request,
                mask=self.mask,
            )
            turned_away = judgement.verdict in (Verdict.REFUSED, Verdict.QUOTA)
            if not has_failed(document) and (turned_away or judgement.authentication):
                return _Poll(problem=judgement.message)  # of the poll, and not of the task
            return _Poll(error_for(judgement))
        return _Poll(known=True, asked=retry_after(headers, time.time()))


def _lost(task: Task) -> ImagenError:
    return ExpiredUrlError(
        f"The gateway does not know its task {printable(task.id, 200)} any more, and the order is "
        "paid for; ask its support with this id.",
        verdict=Verdict.DONE,
        charge=Charge.YES,
        task_id=task.id,
    )


def _unfinished(task: Task, total: float, problem: str) -> ImagenError:
    why = f" ({printable(problem, 200)})" if problem else ""
    return UnfinishedTaskError(
        f"The gateway's task {printable(task.id, 200)} brought no image within {total:g} s{why}; "
        "the order is paid for.",
        verdict=Verdict.DONE,
        charge=Charge.YES,
        task_id=task.id,
    )
