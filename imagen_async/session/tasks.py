"""Collect what a gateway answers later: a task is polled until its images are made.

A poll costs nothing, so it is tried again where the POST never is. It carries the API's key, so it
goes to the API's own origin alone, wherever the gateway says that the task is.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

import anyio
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
    from multidict import CIMultiDict

    from imagen_async.policy.deadline import Deadline
    from imagen_async.session.config import Config
    from imagen_async.session.transport import Head, Receiver, Transport
    from imagen_async.storage.stores import ImageStore
    from imagen_async.wire.request import GenerationRequest
    from imagen_async.wire.task import Task

PAUSES: Final = (2.0, 3.0, 5.0, 8.0)
"""Seconds between two polls of a gateway that does not say; the last one for the rest."""
LONGEST_PAUSE: Final = 60.0
"""Seconds; whatever a gateway says, it is asked again after this."""
MISSES: Final = 3
"""How often in a row no place may know a task: it may be written a moment after its receipt."""
_ABSENT = frozenset({400, 404, 405, 410, 501})
_FORBIDDEN = frozenset({401, 403})


class _Poll(NamedTuple):
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


class TaskCollector:
    """Polls the tasks of one client.

    Args:
        config: Of the client; one poll may take as long as one attempt.
        headers: What every request to its API carries.
    """

    def __init__(self, config: Config, headers: CIMultiDict[str]) -> None:
        self._config = config
        self._headers = headers

    async def collect(
        self,
        transport: Transport,
        task: Task,
        store: ImageStore,
        deadline: Deadline,
        request: GenerationRequest,
    ) -> Reply | ImagenError:
        """Poll a task to its end.

        Args:
            transport: Of the running loop.
            task: What to ask for.
            store: Takes the images that come as bytes.
            deadline: When to give up for now: a later run may ask again.
            request: What was ordered: a failure may quote it.

        Returns:
            The answer, or the error that the task ended as. An UnfinishedTaskError may
            pass; an ExpiredUrlError says that the gateway does not know the task any more.
        """
        clock = asyncio.get_running_loop().time
        places, misses, polls, problem = self._places(task), 0, 0, ""
        while deadline.left(clock()) > 0:
            left = deadline.left(clock())
            poll = await self._poll(transport, places[0], store, left, request)
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
                    return _paid(
                        ExpiredUrlError,
                        task,
                        "is not known there any more, and the order is paid for; ask its support "
                        "with this id",
                    )
            else:
                misses, problem = 0, poll.problem
                if poll.known:
                    del places[1:]
            usual = PAUSES[min(polls, len(PAUSES) - 1)]
            wait = min(usual if poll.asked is None else poll.asked, LONGEST_PAUSE)
            polls += 1
            await anyio.sleep(min(wait, max(0.0, deadline.left(clock()))))
        why = f" ({printable(problem, 200)})" if problem else ""
        end = f"brought no image within {deadline.total:g} s{why}; the order is paid for"
        return _paid(UnfinishedTaskError, task, end)

    def _places(self, task: Task) -> list[URL]:
        base = URL(self._config.base_url)
        found = []
        for place in task.places(self._config.base_url):
            with suppress(ValueError):
                url = base.join(URL(place))
                if url.origin() == base.origin() and url not in found:
                    found.append(url)
        return found

    async def _poll(
        self,
        transport: Transport,
        url: URL,
        store: ImageStore,
        left: float,
        request: GenerationRequest,
    ) -> _Poll:
        times = self._config.timeouts
        limits = AnswerLimits(max_image_bytes=self._config.limits.max_image_bytes)
        receiver = AnswerText(store.open, limits)
        limit = min(times.answer, left)
        timer = timeouts(limit, connect=min(times.connect, limit))

        def on_head(head: Head) -> Receiver:
            receiver.full = head.status not in (200, 201, 202)
            return receiver

        try:
            head = await transport.get(url, timer, on_head, self._headers)
            headers = MaskedHeaders(head.headers, self._config.mask)
            if 200 <= head.status < 300:
                return self._read(head.status, headers, receiver, request)
            poll = _missed(head.status, headers)
        except ExchangeError as error:
            poll = _Poll(problem=error.detail)
        except AnswerError as error:
            poll = _Poll(problem=error.reason)
        except BaseException:
            receiver.discard()
            raise
        receiver.discard()
        return poll

    def _read(
        self,
        status: int,
        headers: MaskedHeaders,
        receiver: AnswerText,
        request: GenerationRequest,
    ) -> _Poll:
        mask, document = self._config.mask, receiver.document()
        found = finished_answer(document)
        if found is not None:
            answer = masked(structure_answer(found), mask)
            if answer.items:
                return _Poll(Reply(answer, status, headers, request_id(headers, None)))
        receiver.discard()
        failure = failure_in(document)
        if failure is not None:
            judgement = judge_failed_task(
                failure,
                headers,
                status,
                server_errors_charged=self._config.retry.server_errors_charged,
                polled=True,
                request=request.encode(),
                mask=mask,
            )
            turned_away = judgement.verdict in (Verdict.REFUSED, Verdict.QUOTA)
            if not has_failed(document) and (turned_away or judgement.authentication):
                return _Poll(problem=judgement.message)  # of the poll, and not of the task
            return _Poll(error_for(judgement))
        return _Poll(known=True, asked=retry_after(headers, time.time()))


def _missed(status: int, headers: MaskedHeaders) -> _Poll:
    """Return what an answer other than a success says of a task."""
    problem = f"the gateway answered {status}"
    if status in _FORBIDDEN:
        return _Poll(problem=f"{problem}: is the key still valid?")
    return _Poll(absent=status in _ABSENT, asked=retry_after(headers, time.time()), problem=problem)


def _paid(kind: type[ImagenError], task: Task, end: str) -> ImagenError:
    return kind(
        f"The gateway's task {printable(task.id, 200)} {end}.",
        verdict=Verdict.DONE,
        charge=Charge.YES,
        task_id=task.id,
    )
