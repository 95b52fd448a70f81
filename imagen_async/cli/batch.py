"""``imagen-async batch``: a file of prompts, a folder of images."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from imagen_async.batch.prompts import read_source
from imagen_async.batch.shard_run import ShardRun
from imagen_async.batch.shards import Shard
from imagen_async.cli.client import (
    interruptible,
    keep_bytes,
    open_client,
    run_loop,
    shown,
)
from imagen_async.cli.console import logged, note, result, set_up, warn
from imagen_async.cli.exits import DONE, INTERRUPTED, PARTIAL
from imagen_async.cli.gallery import open_meanwhile, open_page
from imagen_async.cli.progress import Rate, Snapshot, Watch
from imagen_async.cli.shards import ShardFlags, place_held, run_shard, take_shards
from imagen_async.cli.summary import Reasons, plan_lines, reason, summary_lines
from imagen_async.cli.words import cut, kept_columns, spoken_message
from imagen_async.errors import ConfigurationError
from imagen_async.policy.config import Limits
from imagen_async.storage.offload import in_thread
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from imagen_async.batch.intake import OnUnknown
    from imagen_async.batch.plan import Plan
    from imagen_async.batch.prompts import Row
    from imagen_async.batch.run import Run
    from imagen_async.client import AsyncImagen
    from imagen_async.errors import ImagenError
    from imagen_async.session.stream import Outcome

SHOWN_ERRORS: Final = 5
"""Errors that are shown while a batch runs; all are in its lists."""
_TAKEN: Final = 64


@attrs.frozen(kw_only=True)
class BatchFlags(ShardFlags):
    """The flags of ``batch``."""

    arguments: tuple[str, ...] = ()
    concurrency: int = 8
    prompt_column: str = "prompt"
    id_column: str = "id"
    limit: int | None = None
    new_options: bool = False
    ordered: bool = False
    live: bool = False
    show: bool = False
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
    set_up(quiet=flags.quiet)
    if flags.budget is not None and flags.price_per_image is None:
        raise ConfigurationError("--budget needs --price-per-image, in the same currency.")
    flags.check()
    rows = _rows(flags)
    first = next(rows, None)
    if first is None:
        where = "standard input" if flags.source == "-" else printable(flags.source, 300)
        raise ConfigurationError(f"There is no prompt in {where}; write one a line.")
    if first.columns and not flags.dry_run:
        note(kept_columns(first.columns))
    return run_loop(_batch(flags, chain((first,), rows)))


def _rows(flags: BatchFlags) -> Iterator[Row]:
    return read_source(flags.source, prompt_column=flags.prompt_column, id_column=flags.id_column)


def _can_be_read_again(flags: BatchFlags) -> bool:
    return flags.source != "-" and Path(flags.source).is_file()


async def _batch(flags: BatchFlags, rows: Iterator[Row]) -> int:
    limits = Limits(concurrency=flags.concurrency, requests_per_minute=flags.rate)
    watch = Watch()
    with logged(flags.verbose):
        async with open_client(flags, limits=limits, on_event=watch.hear) as imagen:
            if flags.shards is None or flags.dry_run:
                return await _run(flags, imagen, watch, rows)
            return await _work(flags, imagen, watch)


async def _run(flags: BatchFlags, imagen: AsyncImagen, watch: Watch, rows: Iterator[Row]) -> int:
    run = _open_run(flags, imagen, rows)
    if flags.dry_run:
        return _show_plan(flags, await run.plan())
    return await _BatchSession(flags, imagen, run, watch).drive()


async def _work(flags: BatchFlags, imagen: AsyncImagen, watch: Watch) -> int:
    """Work on the shard that was asked for, or on all that are free."""
    one = flags.chosen or Shard(0, of=flags.shards or 1)
    first = _open_run(flags.with_shard(one), imagen, _rows(flags))
    assert isinstance(first, ShardRun)
    await in_thread(first.claim)
    async with place_held(flags):
        if flags.chosen is not None:
            return await run_shard(lambda: _run(flags, imagen, watch, _rows(flags)))
        return await take_shards(
            flags, lambda shard: _run(flags.with_shard(shard), imagen, watch, _rows(flags))
        )


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


def _show_plan(flags: BatchFlags, plan: Plan) -> int:
    for line in [json.dumps(attrs.asdict(plan))] if flags.as_json else plan_lines(plan):
        result(line)
    return PARTIAL if plan.invalid else DONE


class _BatchSession:
    """Drives one run: shows how it goes, and hears signals."""

    def __init__(self, flags: BatchFlags, imagen: AsyncImagen, run: Run, watch: Watch) -> None:
        self._flags = flags
        self._imagen = imagen
        self._run = run
        self._watch = watch
        self._total: int | None = None
        self._rate = Rate()
        self._reasons = Reasons()
        self._width: int | None = None

    async def drive(self) -> int:
        """Run to the end, or to where a signal ends it, and return the exit code."""
        # Not on an executor, whose threads are waited for at the end.
        threading.Thread(target=self._count, daemon=True).start()
        with interruptible(self._stop) as interrupts:
            async with self._run as run, self._served():
                with shown(self._flags, self._look) as self._width:
                    while outcomes := await run.take(_TAKEN):
                        self._tell(outcomes)
        await self._end()
        if interrupts.count:
            return INTERRUPTED
        return DONE if self._run.report.ok else PARTIAL

    @contextlib.asynccontextmanager
    async def _served(self) -> AsyncIterator[None]:
        """Serve the gallery while the run goes on, if that was asked for."""
        if not self._flags.live:
            yield
            return
        from imagen_async.batch.gallery.live import LiveGallery

        async with LiveGallery(self._flags.folder, self._run, self._progress) as served:
            warn(f"Live: {served.url}")
            if self._flags.show:
                open_meanwhile(served.url)
            yield

    def _progress(self) -> dict[str, object]:
        """Return what the live page shows of the run."""
        stopping = self._run.report.stopped_by is not None
        return {**attrs.asdict(self._look()), "paused": self._run.paused, "stopping": stopping}

    def _count(self) -> None:
        if self._flags.shards is None and _can_be_read_again(self._flags):
            with contextlib.suppress(ConfigurationError):
                rows = islice(_rows(self._flags), self._flags.limit)
                self._total = sum(1 for _ in rows)

    def _tell(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            if outcome.error is None:
                continue
            keep_bytes(outcome.error.images)
            self._reasons.add(outcome, outcome.error)
            if self._reasons.count <= SHOWN_ERRORS:
                warn(_failure(outcome, outcome.error, self._width))
            elif self._reasons.count == SHOWN_ERRORS + 1:
                note("Further errors are counted here and listed in the folder.")

    def _look(self) -> Snapshot:
        report = self._run.report
        ended = report.done + report.failed + report.unknown + report.dropped
        return Snapshot(
            total=self._total,
            done=report.done,
            failed=report.failed,
            unknown=report.unknown + report.dropped,
            images=report.images,
            in_flight=len(self._watch.in_flight),
            rate=self._rate(time.monotonic(), ended - report.skipped),
            cost=report.cost,
            waits=self._watch.pause,
        )

    def _stop(self) -> int:
        self._run.stop("interrupted")
        return len(self._watch.in_flight)

    async def _end(self) -> None:
        report = self._run.report
        folder = self._flags.folder
        page = folder / "index.html"
        gallery = page if page.exists() else None  # none if it ended before its first image
        lines = summary_lines(
            report,
            folder,
            reasons=self._reasons,
            arguments=self._flags.arguments,
            budget_needed=await self._budget_needed(),
            rows=self._total,
        )
        for line in lines:
            (note if report.ok else warn)(line)
        if self._flags.as_json:
            where = None if gallery is None else str(gallery)
            result(json.dumps({**report.as_json(), "out": str(folder), "gallery": where}))
        elif gallery is not None:
            result(str(gallery))
        if gallery is not None and self._flags.show and not self._flags.live:
            open_page(gallery.absolute().as_uri())

    async def _budget_needed(self) -> float | None:
        """Return which budget would finish the run that the budget stopped, if it can be told."""
        if self._run.report.stopped_by != "budget" or not _can_be_read_again(self._flags):
            return None
        run = _open_run(self._flags, self._imagen, _rows(self._flags))
        return (await run.plan()).budget_needed


def _failure(outcome: Outcome, error: ImagenError, width: int | None) -> str:
    """Return what happened to an item, on one line that fits the terminal."""
    message = spoken_message(error)
    if outcome.request is not None:  # else the error names the line
        which = f"row {outcome.index + 1}" if outcome.id is None else f"id {outcome.id}"
        prompt = cut(outcome.request.prompt, 60 if width is None else width // 3)
        item = f'{printable(which, 100)} "{prompt}"'
        if width is not None and len(item) + len(message) + 2 > width:
            message = f"{reason(error)}: {message}"  # first, for the rest of it is cut
        message = f"{item}: {message}"
    return message if width is None else cut(message, width)
