"""A batch on a Ray cluster: one task for each shard, and Ray runs a dead worker's task again.

A task that is run again opens its shard's folder and goes on: what was done is not bought again,
and what was under way when the worker died is listed as unknown. The folder must be on a disk
that every node sees. A stage of Ray Data that calls a gateway has none of that: Ray repeats it.
"""

from __future__ import annotations

import contextlib
import os
import time
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack

import attrs

from imagen_async.batch.prompts import read_source
from imagen_async.batch.schema import HeldJournalError
from imagen_async.batch.shard_run import ShardRun
from imagen_async.batch.shards import Shard, all_shards, share_of_rate
from imagen_async.batch.source import Source
from imagen_async.batch.status import FolderStatus, batch_status, folder_status
from imagen_async.client import AsyncImagen
from imagen_async.errors import ConfigurationError
from imagen_async.policy.config import Limits, Timeouts
from imagen_async.policy.retry import RetryPolicy
from imagen_async.sync import Imagen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from imagen_async.batch.intake import OnUnknown
    from imagen_async.batch.status import BatchStatus

HELD: Final = 180.0
"""Seconds that a task waits for the lock of a dead node, which a network disk keeps for a while."""
_KEY: Final = "IMAGEN_API_KEY"
_PAUSE: Final = 0.5


@attrs.frozen(kw_only=True)
class ClientConfig:
    """How the client of each worker is made; no secret is in it, for Ray keeps what it is given.

    Args:
        base_url: As in AsyncImagen; else ``IMAGEN_BASE_URL`` where ``run_shards`` is called.
        api_key_env: The environment variable of the node that holds the key.
        model: As in AsyncImagen.
        limits: As in AsyncImagen, but ``requests_per_minute`` is the whole batch's: it is divided
            among the workers. ``concurrency`` is each worker's.
        retry: As in AsyncImagen.
        timeouts: As in AsyncImagen.
        proxy: As in AsyncImagen, without a password: with ``trust_env`` each node has its own.
        trust_env: As in AsyncImagen.
        allow_private: As in AsyncImagen.
        idempotency: As in AsyncImagen.
    """

    base_url: str | None = None
    api_key_env: str = _KEY
    model: str | None = None
    limits: Limits = Limits()
    retry: RetryPolicy = RetryPolicy()
    timeouts: Timeouts = Timeouts()
    proxy: str | None = None
    trust_env: bool = False
    allow_private: bool = False
    idempotency: bool = True

    def among(self, workers: int) -> ClientConfig:
        """Return the configuration of one of so many workers; where to ask is settled here."""
        limits, base_url = self.limits, self.base_url or os.environ.get("IMAGEN_BASE_URL")
        if (rate := limits.requests_per_minute) is not None:
            share = share_of_rate(rate, workers)
            limits = attrs.evolve(limits, requests_per_minute=share)
        return attrs.evolve(self, limits=limits, base_url=base_url)

    def open(self) -> Imagen:
        """Make a worker's client, with the key of its node.

        Raises:
            ConfigurationError: If something is missing or cannot work.
        """
        key = os.environ.get(self.api_key_env)
        if key is None and self.api_key_env != _KEY:
            raise ConfigurationError(
                f"{self.api_key_env} is not set on this node; set it to the API key."
            )
        return Imagen(api_key=key or "", **self._settings)

    @property
    def _settings(self) -> dict[str, Any]:
        names = [each.name for each in attrs.fields(ClientConfig) if each.name != "api_key_env"]
        return {name: getattr(self, name) for name in names}


@attrs.frozen(kw_only=True)
class Progress:
    """What the shards that came to an end add up to.

    Args:
        shards: How many there are.
        ended: How many of them a task has run or passed over.
        done: Items with an image.
        failed: Items that cost nothing and brought nothing.
        unknown: Items that were or may have been charged and are not done.
        images: Image files.
    """

    shards: int
    ended: int = 0
    done: int = 0
    failed: int = 0
    unknown: int = 0
    images: int = 0

    def plus(self, report: Mapping[str, Any]) -> Progress:
        """Return it with one more shard's report."""
        names = ("done", "failed", "unknown", "images")
        sums = {name: getattr(self, name) + report.get(name, 0) for name in names}
        return attrs.evolve(self, ended=self.ended + 1, **sums)


class BatchOptions(TypedDict, total=False):
    """What ``AsyncImagen.batch`` takes too; the budget is the whole batch's."""

    defaults: Mapping[str, Any]
    on_unknown: OnUnknown
    retry_failed: bool
    price_per_image: float
    budget: float
    max_failures: int
    give_up_after: float


@attrs.frozen(kw_only=True)
class _Work:
    """What each task is given: plain values, small, and no secret."""

    source: Source
    out: Path
    client: ClientConfig
    options: BatchOptions

    def check(self, shards: int) -> None:
        """Fix what the shards share, or refuse what is not as it was; before any task begins."""
        imagen = AsyncImagen(api_key="", **self.client._settings)  # noqa: SLF001 - of this module
        run = imagen.batch(**self.arguments(Shard(0, of=shards)))
        assert isinstance(run, ShardRun)
        run.claim()

    def arguments(self, shard: Shard) -> dict[str, Any]:
        """Return what ``batch`` of either client is given."""
        path, prompt_column, id_column = attrs.astuple(self.source)
        rows = read_source(path, prompt_column=prompt_column, id_column=id_column)
        return {"prompts": rows, "out": self.out, "shard": shard, "gallery": False, **self.options}

    def passes(self, status: FolderStatus) -> bool:
        """Return whether nothing of a shard that stands so would be sent."""
        again = self.options.get("retry_failed") or self.options.get("on_unknown", "hold") != "hold"
        return status.phase == "ended" and not again


def run_shards(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    shards: int = 64,
    workers: int | None = None,
    client: ClientConfig | None = None,
    prompt_column: str = "prompt",
    id_column: str = "id",
    max_retries: int = 16,
    on_progress: Callable[[Progress], object] | None = None,
    **options: Unpack[BatchOptions],
) -> BatchStatus:
    """Run a batch in shards on the Ray cluster that ``ray.init`` joined, and wait for its end.

    Call it again to go on. Ctrl-C lets the workers finish what is in flight.

    Args:
        source: The input, a path that every node sees; see ``read_source``.
        out: The folder over the shards' folders, on a disk that every node sees and locks.
        shards: How many parts; a batch keeps the number that it was begun with.
        workers: How many run at once, at most; None for as many as the cluster has CPUs.
        client: How each worker's client is made.
        prompt_column: As in ``read_source``.
        id_column: As in ``read_source``.
        max_retries: How often Ray runs the task of a dead worker or node again; -1 for no bound.
            With ``on_unknown="resend"`` it is not: that would buy again what was under way.
        on_progress: Called here whenever a shard has come to an end.
        **options: As in ``AsyncImagen.batch``.

    Returns:
        How the batch stands.

    Raises:
        ConfigurationError: If Ray is not installed, or the batch cannot be run so.
    """
    ray = _ray()
    most = min(shards, workers or max(1, int(ray.cluster_resources().get("CPU", 1))))
    work = _Work(
        source=Source(Path(source).absolute(), prompt_column, id_column),
        out=Path(out).absolute(),
        client=(client or ClientConfig()).among(most),
        options=options,
    )
    work.check(shards)
    if options.get("on_unknown") == "resend":
        max_retries = 0  # run again, it would also send what was under way when the worker died
    # Only a worker's or node's death is retried: an error of ours says that it cannot be run so.
    task = ray.remote(_run_shard).options(max_retries=max_retries, retry_exceptions=False)
    progress = Progress(shards=shards)
    for report in _reports(ray, partial(task.remote, work), list(all_shards(shards)), most):
        progress = progress.plus(report)
        if on_progress is not None:
            on_progress(progress)
    return batch_status(work.out)


def _ray() -> Any:
    try:
        return import_module("ray")
    except ImportError:
        raise ConfigurationError("Ray is not installed: pip install 'imagen-async[ray]'.") from None


def _reports(
    ray: Any, start: Callable[[Shard], Any], waiting: list[Shard], most: int
) -> Iterator[Mapping[str, Any]]:
    """Keep so many tasks going and yield the report of each shard as it ends; {} if it did not."""
    running: list[Any] = []
    problem: ConfigurationError | None = None
    try:
        while running or waiting:
            while waiting and len(running) < most:
                running.append(start(waiting.pop(0)))
            (ended, *_), running = ray.wait(running)
            try:
                report: Mapping[str, Any] = ray.get(ended)
            except ray.exceptions.RayTaskError as error:
                if not isinstance(error.cause, ConfigurationError):
                    raise
                report, problem = {}, error.cause
            except ray.exceptions.RayError:  # dead too often: the shard is left for the next call
                report = {}
            if problem or report.get("stopped_by") not in (None, "budget"):
                waiting = []  # what runs is paid for and goes on
            yield report
    except BaseException:
        for each in running:
            ray.cancel(each)  # a KeyboardInterrupt there: what is in flight is finished
        if running:
            ray.wait(running, num_returns=len(running), timeout=HELD)
        raise
    if problem is not None:
        raise problem


def _run_shard(work: _Work, shard: Shard) -> Mapping[str, Any]:
    """Run one shard in a worker; run again after its death, it goes on."""
    end = time.monotonic() + HELD
    while time.monotonic() < end:
        status = folder_status(work.out / shard.name)
        if work.passes(status):
            return status.report
        with contextlib.suppress(HeldJournalError), work.client.open() as imagen:
            # Not the async client: this one finishes what is in flight when it is cancelled.
            with imagen.batch(**work.arguments(shard)) as run:
                for _ in run:
                    pass
            return run.report.as_json()
        time.sleep(_PAUSE)
    return {}  # a process that is no task of ours runs it
