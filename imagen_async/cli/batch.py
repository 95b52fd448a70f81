"""``imagen-async batch``: a file of prompts, a folder of images."""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from typing import TYPE_CHECKING, Final

import attrs

from imagen_async.batch.prompts import count_rows, read_source
from imagen_async.batch.shard_run import ShardRun
from imagen_async.batch.shards import Shard
from imagen_async.cli.client import (
    interruptible,
    keep_bytes,
    open_client,
    run_loop,
)
from imagen_async.cli.console import note, result
from imagen_async.cli.exits import DONE, INTERRUPTED, PARTIAL, error_line
from imagen_async.cli.progress import Rate, Snapshot, open_progress
from imagen_async.cli.shards import ShardFlags, place_held, run_shard, take_shards
from imagen_async.cli.summary import plan_lines, summary_lines
from imagen_async.errors import ConfigurationError
from imagen_async.policy.config import Limits
from imagen_async.session.events import Throttled
from imagen_async.storage.offload import in_thread
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imagen_async.batch.intake import OnUnknown
    from imagen_async.batch.prompts import Row
    from imagen_async.batch.run import Run
    from imagen_async.cli.progress import Progress
    from imagen_async.client import AsyncImagen
    from imagen_async.errors import ImagenError
    from imagen_async.session.events import Event
    from imagen_async.session.stream import Outcome

SHOWN_ERRORS: Final = 5
"""Errors that are shown while a batch runs; all are in its lists."""
_TAKEN: Final = 64


@attrs.frozen(kw_only=True)
class BatchFlags(ShardFlags):
    """The flags of ``batch``."""

    concurrency: int = 8
    prompt_column: str = "prompt"
    id_column: str = "id"
    limit: int | None = None
    new_options: bool = False
    ordered: bool = False
    on_unknown: OnUnknown = "hold"
    price_per_image: float | None = None
    budget: float | None = None
    max_failures: int | None = None
    give_up_after: float | None = None


def batch(flags: BatchFlags) -> int:
    """Run a batch, or plan it, and return the exit code.

    Raises:
        ImagenError: If it cannot begin.
    """
    if flags.budget is not None and flags.price_per_image is None:
        raise ConfigurationError("--budget needs --price-per-image, in the same currency.")
    flags.check()
    return run_loop(_batch(flags, _rows(flags)))


def _rows(flags: BatchFlags) -> Iterator[Row]:
    return read_source(flags.source, prompt_column=flags.prompt_column, id_column=flags.id_column)


async def _batch(flags: BatchFlags, rows: Iterator[Row]) -> int:
    limits = Limits(concurrency=flags.concurrency, requests_per_minute=flags.rate)
    gate = _GateWatch()
    async with open_client(flags, limits=limits, on_event=gate.hear) as imagen:
        if flags.shards is None or flags.dry_run:
            return await _run(flags, imagen, gate, rows)
        first = _open_run(flags.with_shard(flags.chosen or Shard(0, of=flags.shards)), imagen, rows)
        assert isinstance(first, ShardRun)
        await in_thread(first.claim)
        async with place_held(flags):
            if flags.chosen is not None:
                return await run_shard(lambda: _run(flags, imagen, gate, _rows(flags)))
            return await take_shards(
                flags, lambda shard: _run(flags.with_shard(shard), imagen, gate, _rows(flags))
            )


async def _run(
    flags: BatchFlags, imagen: AsyncImagen, gate: _GateWatch, rows: Iterator[Row]
) -> int:
    run = _open_run(flags, imagen, rows)
    if flags.dry_run:
        plan = await run.plan()
        lines = [json.dumps(attrs.asdict(plan))] if flags.as_json else plan_lines(plan)
        for line in lines:
            result(line)
        return DONE
    return await _BatchSession(flags, imagen, run, gate).drive()


def _open_run(flags: BatchFlags, imagen: AsyncImagen, rows: Iterator[Row]) -> Run:
    return imagen.batch(
        rows,
        out=flags.out,
        ordered=flags.ordered,
        on_unknown=flags.on_unknown,
        retry_failed=flags.retry_failed,
        limit=flags.limit,
        defaults=flags.fields,
        new_options=flags.new_options,
        price_per_image=flags.price_per_image,
        budget=flags.budget,
        max_failures=flags.max_failures,
        give_up_after=flags.give_up_after,
        emulator=flags.emulator,
        shard=flags.chosen,
    )


class _GateWatch:
    """Remembers what the gate waits for."""

    def __init__(self) -> None:
        self._until = 0.0
        self._reason = ""

    def hear(self, event: Event) -> None:
        """Take note of a closing."""
        if isinstance(event, Throttled):
            self._until = time.monotonic() + event.wait
            self._reason = printable(event.reason, 80)

    @property
    def waits(self) -> str:
        """What is waited for now; empty if nothing."""
        left = self._until - time.monotonic()
        return f"waits {math.ceil(left)} s: {self._reason}" if left > 0 else ""


class _BatchSession:
    """Drives one run: shows how it goes, and hears signals."""

    def __init__(self, flags: BatchFlags, imagen: AsyncImagen, run: Run, gate: _GateWatch) -> None:
        self._flags = flags
        self._imagen = imagen
        self._run = run
        self._gate = gate
        self._total = None if flags.shards else count_rows(flags.source, flags.limit)
        self._rate = Rate()
        self._errors = 0
        self._progress: Progress | None = None

    async def drive(self) -> int:
        """Run to the end, or to where a signal ends it, and return the exit code."""
        with interruptible(self._stop, self._say) as interrupts:
            async with self._run as run:
                self._progress = open_progress(os.environ.get)
                ticker = asyncio.create_task(self._tick())
                try:
                    while outcomes := await run.take(_TAKEN):
                        self._tell(outcomes)
                finally:
                    ticker.cancel()
                    self._progress.close()
        self._end()
        if interrupts.count:
            return INTERRUPTED
        return DONE if self._run.report.ok else PARTIAL

    def _tell(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            if outcome.error is None:
                continue
            keep_bytes(outcome.error.images)
            self._errors += 1
            if self._errors <= SHOWN_ERRORS:
                self._say(_failure(outcome, outcome.error))
            elif self._errors == SHOWN_ERRORS + 1:
                self._say("Further errors are listed in failed.jsonl and unknown.jsonl.")

    def _say(self, line: str) -> None:
        (note if self._progress is None else self._progress.note)(line)

    async def _tick(self) -> None:
        progress = self._progress
        while progress is not None:
            progress.show(self._snapshot())
            await asyncio.sleep(progress.every)

    def _snapshot(self) -> Snapshot:
        report = self._run.report
        ended = report.done + report.failed + report.unknown + report.dropped
        return Snapshot(
            total=self._total,
            done=report.done,
            failed=report.failed,
            unknown=report.unknown + report.dropped,
            images=report.images,
            rate=self._rate(time.monotonic(), ended - report.skipped),
            waits=self._gate.waits,
        )

    def _stop(self) -> int:
        self._run.stop("interrupted")
        return self._imagen.stats().in_flight

    def _end(self) -> None:
        report = self._run.report
        folder = self._flags.folder
        page = folder / "index.html"
        gallery = page if page.exists() else None  # a run that was cancelled writes none
        for line in summary_lines(report, folder, gallery):
            note(line)
        if self._flags.as_json:
            shown = None if gallery is None else str(gallery)
            result(json.dumps({**report.as_json(), "out": str(folder), "gallery": shown}))
        elif gallery is not None:
            result(str(gallery))


def _failure(outcome: Outcome, error: ImagenError) -> str:
    if outcome.request is None:  # the error names the line
        return error_line(error)
    which = f"row {outcome.index + 1}" if outcome.id is None else f"id {outcome.id}"
    return f"{printable(which, 100)}: {error_line(error)}"
