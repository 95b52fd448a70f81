"""A durable batch in blocking code."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from imagen_async.blocking.stream import BlockingStream

if TYPE_CHECKING:
    from pathlib import Path

    from imagen_async.batch.plan import Plan
    from imagen_async.batch.report import Report
    from imagen_async.batch.run import Run  # noqa: F401 - in a base class, by name
    from imagen_async.batch.settling import Settled
    from imagen_async.policy.settlement import LogName
    from imagen_async.wire.image import Bundle


class BlockingRun(BlockingStream["Run"]):
    """A batch in blocking code: a context manager over outcomes, with a report.

    Leaving the block waits for what is in flight: it may be paid for. So does a Ctrl-C in it; a
    second one cancels, and what was sent is then listed as unknown.
    """

    @property
    def folder(self) -> Path:
        """Where images, journal and lists are."""
        return self._stream.folder

    @property
    def report(self) -> Report:
        """What the batch came to so far; final after the block."""
        return self._portal.read(lambda: self._stream.report)

    def stop(self, reason: str = "stopped", problem: str | None = None) -> None:
        """Send nothing more; what is in flight goes on and is yielded.

        Args:
            reason: A word for the report; the first one counts.
            problem: A sentence for the report.
        """
        self._portal.soon(partial(self._stream.stop, reason, problem))

    def pause(self) -> None:
        """Begin no call and send none again until ``resume``; what is in flight is finished."""
        self._portal.soon(self._stream.pause)

    def resume(self) -> None:
        """Go on after ``pause``."""
        self._portal.soon(self._stream.resume)

    @property
    def paused(self) -> bool:
        """Whether ``pause`` holds the run back."""
        return self._portal.read(lambda: self._stream.paused)

    def plan(self) -> Plan:
        """Read the whole input and return what a run would do; nothing is sent or made.

        An input that can be read only once is then used up.

        Raises:
            ConfigurationError: If the folder's journal cannot be used, or another process has it.
        """
        self._pull_all()
        return self._portal.call(self._stream.plan)

    def settle(
        self, *, log: LogName | None = None, horizon: float = 900.0, dry_run: bool = False
    ) -> Settled:
        """Ask the gateway's log what was charged, after the block; see ``Imagen.settle``."""
        return self._portal.call(
            partial(self._stream.settle, log=log, horizon=horizon, dry_run=dry_run)
        )

    def _leave(self, error: BaseException | None) -> None:
        if isinstance(error, KeyboardInterrupt):
            self._stream.stop("interrupted", "Ctrl-C: what was in flight was finished.")
        super()._leave(error)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> Bundle:
        return self._portal.read(lambda: self._stream._repr_mimebundle_(include, exclude))
