"""Orders that are answered with a task: charged at once, drawn meanwhile, collected later."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import attrs

from imagen_async.emulator.answers import json_answer

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from imagen_async.emulator.answers import Answer
    from imagen_async.emulator.ledger import Exchange
    from imagen_async.emulator.settings import Settings

PATH = "/v1/images/tasks/"
RETRY_AFTER = 3.0
"""Seconds between two polls, as the gateway asks for them."""


@attrs.define
class _Task:
    """One order.

    Args:
        exchange: The order's request.
        work: Draws its images.
        expires: When it is forgotten, on the gateway's clock.
        polls: How often it was asked for.
    """

    exchange: Exchange
    work: asyncio.Task[dict[str, Any] | None]
    expires: float
    polls: int = 0


class Tasks:
    """The open and the finished tasks.

    Args:
        settings: Their shape, and how long they are kept.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tasks: dict[str, _Task] = {}

    def open(
        self,
        exchange: Exchange,
        work: Coroutine[Any, Any, dict[str, Any] | None],
        now: float,
        headers: Mapping[str, str],
    ) -> Answer:
        """Begin a task and return the answer to its order.

        Args:
            exchange: The order's request, which has the task's id.
            work: Makes the success body; None for a task that fails.
            now: The gateway's time.
            headers: Of the answer.
        """
        name = exchange.task or ""
        task = asyncio.create_task(work)
        self._tasks[name] = _Task(exchange, task, now + self._settings.task_ttl)
        poll = f"{PATH}{name}"
        if self._settings.tasks == "200":
            data = {"task_id": name, "status": "submitted"}
            document, status = {"id": name, "status": "submitted", "data": data}, 200
        else:
            document = {"task_id": name, "status": "queued", "poll_url": poll}
            status = 202
        told = {**headers, "Location": poll, "Retry-After": self._pause}
        return attrs.evolve(json_answer(document, status), headers=told)

    def lose(self, name: str) -> None:
        """Forget a task, as a gateway that was restarted does."""
        task = self._tasks.pop(name, None)
        if task is not None:
            task.work.cancel()

    def poll(self, name: str, key: str, now: float) -> Answer | None:
        """Return what a poll is told; None if there is no such task of the key.

        Args:
            name: Its id.
            key: The API key.
            now: The gateway's time.
        """
        task = self._tasks.get(name)
        if task is None or task.exchange.key != key or now > task.expires:
            return None
        task.polls += 1
        document: dict[str, Any] = {"task_id": name, "object": "image.task"}
        if not task.work.done():
            status = "queued" if task.polls == 1 else "processing"
            answer = json_answer(document | {"status": status})
            return attrs.evolve(answer, headers={"Retry-After": self._pause})
        body = task.work.result()
        if body is None:
            error = {"code": "generation_failed", "message": "The model failed; nothing is charged"}
            return json_answer(document | {"status": "failed", "error": error})
        return json_answer(document | {"status": "completed", "result": body})

    def finished(self, name: str) -> Exchange | None:
        """Return the request of a task whose images are made; None for any other."""
        task = self._tasks.get(name)
        done = task is not None and task.work.done() and task.work.result() is not None
        return task.exchange if task is not None and done else None

    def clear(self) -> None:
        """End and forget every task."""
        for name in list(self._tasks):
            self.lose(name)

    async def close(self) -> None:
        """End what still runs; what is done can be collected after a new start."""
        works = [task.work for task in self._tasks.values() if not task.work.done()]
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)
        self._tasks = {name: each for name, each in self._tasks.items() if each.work not in works}

    @property
    def _pause(self) -> str:
        return f"{max(0.01, RETRY_AFTER / self._settings.time_scale):g}"
